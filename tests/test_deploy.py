"""deploy/ and docs/deploy.md: what they ask of the server exists, and the tools that read them take them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from ravan_edge.merge import MergeSettings, RoundRule
from ravan_edge.protocol import UploadSettings
from ravan_edge.training import LocalSettings
from ravan_edge.training.options import option_infos, option_name
from ravan_server.settings import RoundSettings, ServerSettings

CLASSES = (RoundSettings, RoundRule, MergeSettings, UploadSettings, ServerSettings, LocalSettings)
OPTIONS = {option_name(item.name) for kind in CLASSES for item, _ in option_infos(kind)} | {
    "--state",
    "--test",
}


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "deploy"


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_the_unit_runs_a_command_that_there_is(folder: Path) -> None:
    unit = (folder / "ravan-server.service").read_text("utf-8")
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    words = shlex.split(command)
    assert words[:2] == ["/opt/ravan/bin/ravan", "serve"]
    assert options(command) <= OPTIONS
    assert "\nStateDirectory=ravan\n" in unit
    assert "--state /var/lib/ravan/" in command, "the folder that systemd keeps"


def test_the_image_runs_a_command_that_there_is(folder: Path, root: Path) -> None:
    text = (folder / "Containerfile").read_text("utf-8")
    run = re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", text, re.MULTILINE)
    assert len(run) == 2
    assert options(" ".join(run)) <= OPTIONS
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((root / source).exists() for source in sources), line


def test_the_page_names_what_there_is(root: Path) -> None:
    page = (root / "docs" / "deploy.md").read_text("utf-8")
    for path in re.findall(r"`((?:deploy|tests)/[\w./-]+)`", page):
        assert (root / path).exists(), path
    headings = re.findall(
        r"^#+ (.*)$", (root / "docs" / "server.md").read_text("utf-8"), re.MULTILINE
    )
    anchors = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
    for anchor in re.findall(r"server\.md#([a-z0-9-]+)", page):
        assert anchor in anchors


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_finds_nothing_in_the_unit(folder: Path, tmp_path: Path) -> None:
    unit = (folder / "ravan-server.service").read_text("utf-8")
    copy = tmp_path / "ravan-server.service"
    copy.write_text(unit.replace("/opt/ravan/bin/ravan", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    about_it = [line for line in done.stderr.splitlines() if "ravan-server" in line]
    assert about_it == []


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx")
def test_nginx_takes_its_block(folder: Path, tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("fl.example")
    (tmp_path / "chain.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    block = (folder / "nginx.conf").read_text("utf-8").replace("/etc/ravan/", f"{tmp_path}/")
    (tmp_path / "site.conf").write_text(block.replace("listen 443", "listen 8443"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"pid {tmp_path}/pid;\nerror_log {tmp_path}/log;\nevents {{}}\n"
        f"http {{ access_log off; {folders} include {tmp_path}/site.conf; }}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-c", str(whole)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
