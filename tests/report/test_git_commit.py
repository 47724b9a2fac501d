"""The commit of a working folder, without running anything that its repository names."""

from __future__ import annotations

import subprocess

import pytest

from compress.support.git_commit import head_commit


@pytest.fixture
def repository(tmp_path):
    class Repository:
        folder = tmp_path / "work"

        def git(self, *arguments):
            identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
            command = ["git", "-C", str(self.folder), *identity, *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        def commit(self):
            (self.folder / "file").write_text("one")
            self.git("add", "file")
            self.git("commit", "-m", "first")
            return self.git("rev-parse", "HEAD")

    made = Repository()
    made.folder.mkdir()
    made.git("init")
    return made


def test_a_branch_a_detached_head_packed_references_and_a_worktree(repository, tmp_path):
    assert head_commit(tmp_path) is None
    assert head_commit(repository.folder) is None  # no commit yet
    commit = repository.commit()
    (repository.folder / "deep/er").mkdir(parents=True)
    assert head_commit(repository.folder / "deep/er") == commit
    repository.git("worktree", "add", "-b", "feature/x", str(tmp_path / "other"))
    assert head_commit(tmp_path / "other") == commit
    repository.git("pack-refs", "--all")
    assert head_commit(repository.folder) == commit
    assert head_commit(tmp_path / "other") == commit
    repository.git("checkout", "--detach")
    assert head_commit(repository.folder) == commit


def test_no_program_of_the_repository_runs(repository, tmp_path):
    commit = repository.commit()
    marker = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    program.chmod(0o755)
    repository.git("config", "core.fsmonitor", str(program))
    repository.git("config", "filter.x.clean", str(program))
    (repository.folder / ".gitattributes").write_text("* filter=x\n")
    (repository.folder / "file").write_text("two")
    assert head_commit(repository.folder) == commit
    assert not marker.exists()


@pytest.mark.parametrize(
    "head", ["ref: refs/../../secret", "ref: refs/heads/none", "0123", "x" * 40, "ref: /etc/passwd", "\udcff"]
)
def test_a_strange_head_is_no_commit(tmp_path, head):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode(errors="surrogateescape"))
    assert head_commit(tmp_path) is None
