"""Emulated Raspberry Pis: an aarch64 Debian user space under qemu, with or without a real aarch64 sshd.

Outputs computed here are what the board computes; times mean nothing. Nothing is installed or registered on the host,
and nothing needs root.
"""
