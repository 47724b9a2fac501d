"""LiteRT (TFLite) files: conversion from PyTorch, legalisation, and a typed look into what was written."""
