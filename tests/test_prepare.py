"""`prepare` against a local server with miniature archives of the official names and layout."""

import hashlib
import io
import os
import re
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import miniatures
import pytest
from ovss.datamodules.download.extract import extract
from ovss.datamodules.download.http import DownloadError, download
from ovss.datamodules.prepare import prepare
from PIL import Image
from rich.console import Console

from ovss.datamodules import (
    ADE20K,
    VOC,
    Cityscapes,
    COCOObject,
    COCOStuff,
    DatasetNotFoundError,
    Folder,
    PascalContext,
    Scenes,
)

# pycocotools' compiled code does not know NumPy 2's `copy` keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Server:
    """Serves bytes, with the faults that a test asks for."""

    def __init__(self):
        self.files = {}
        self.ranges = True
        self.cuts = []  # after how many bytes to break off, request by request
        self.statuses = []  # what to answer instead, request by request
        self.headers = {}  # to send along, in place of the usual ones
        self.heeds_if_range = True
        self.log = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request):
        name = request.path.lstrip("/")
        asked = request.headers.get("Range")
        self.log.append((name, asked))
        request.close_connection = True
        if self.statuses:
            request.send_response(self.statuses.pop(0))
            request.send_header("Content-Length", "0")
            self.send_headers(request)
            return
        if name not in self.files:
            request.send_error(404)
            return
        content = self.files[name]
        condition = request.headers.get("If-Range")
        changed = condition not in (None, *self.headers.values()) and self.heeds_if_range
        ranges = self.ranges and not changed
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges else 0
        if start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            self.send_headers(request)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if "Content-Length" not in self.headers:
            request.send_header("Content-Length", str(len(content) - start))
        self.send_headers(request)
        end = start + self.cuts.pop(0) if self.cuts else len(content)
        request.wfile.write(content[start:end])

    def send_headers(self, request):
        for name, value in self.headers.items():
            if value is not None:
                request.send_header(name, value)
        request.end_headers()


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def contents(folder, below="", suffix=""):
    """Files of a tree by their names in an archive."""
    return {
        below + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name.endswith(suffix)
    }


def official(key, folder):
    """The archives of a benchmark, training data included, as its servers have them."""
    if key.startswith("voc"):
        miniatures.voc(folder)
        files = contents(folder)
        files["VOCdevkit/VOC2012/JPEGImages/2007_000027.jpg"] = b"training"
        files["VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"] = b"training"
        files["VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"] = b"2007_000032\n"
        return {"VOCtrainval_11-May-2012.tar": tar_of(files)}
    if key.startswith("pc"):
        miniatures.pascal_context_json(folder)
        files = contents(folder, suffix=".jpg")
        files["VOCdevkit/VOC2010/JPEGImages/2008_999999.jpg"] = b"training"
        name = "trainval_merged.json"
        return {
            name: (folder / "VOCdevkit" / "VOC2010" / name).read_bytes(),
            "VOCtrainval_03-May-2010.tar": tar_of(files),
        }
    if key == "ade150":
        miniatures.ade20k(folder)
        files = contents(folder)
        files["ADEChallengeData2016/images/training/ADE_train_00000001.jpg"] = b"training"
        return {"ADEChallengeData2016.zip": zip_of(files)}
    if key == "cityscapes19":
        miniatures.cityscapes(folder)
        photos = contents(folder / "leftImg8bit", "leftImg8bit/")
        photos["leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"] = b"training"
        masks = contents(folder / "gtFine", "gtFine/")
        masks["gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_color.png"] = b"colours"
        return {
            "leftImg8bit_trainvaltest.zip": zip_of(photos),
            "gtFine_trainvaltest.zip": zip_of(masks),
        }
    miniatures.coco_stuff(folder)
    instances = miniatures.coco_instances(folder)
    masks = contents(folder / "annotations", suffix=".png")
    masks["train2017/000000000009.png"] = b"training"
    annotations = {
        "annotations/instances_val2017.json": instances.read_bytes(),
        "annotations/instances_train2017.json": b"training",
    }
    return {
        "val2017.zip": zip_of(contents(folder / "images")),
        "stuffthingmaps_trainval2017.zip": zip_of(masks),
        "annotations_trainval2017.zip": zip_of(annotations),
    }


CASES = {
    "voc21": (VOC, {}, 6 + 1),
    "voc20": (VOC, {"classes": "voc20"}, 6 + 1),
    "pc60": (PascalContext, {}, 3 + 1),
    "pc59": (PascalContext, {"classes": "pc59"}, 3 + 1),
    "ade150": (ADE20K, {}, 6),
    "coco_object81": (COCOObject, {}, 6),
    "coco_object81 released": (COCOObject, {"protocol": "released"}, 3 + 1),
    "coco_stuff171": (COCOStuff, {}, 6),
    "cityscapes19": (Cityscapes, {}, 6),
}
"""Data module, arguments, and how many files evaluation needs."""


def miniature_archives(module, files):
    """The data module's own archives with the checksums and counts of the miniatures."""
    return [
        replace(
            archive,
            digest="sha1:" + hashlib.sha1(files[archive.name]).hexdigest(),
            size=len(files[archive.name]),
            done=(archive.done[0], min(3, archive.done[1])),
        )
        for archive in module.archives
    ]


def run(module, files, server, check=False):
    return prepare(
        module,
        check=check,
        mirror=server.url,
        archives=miniature_archives(module, files),
        console=Console(file=io.StringIO()),
    )


@pytest.mark.parametrize("case", CASES)
def test_download_of_what_evaluation_needs(case, server, tmp_path):
    module, kwargs, count = CASES[case]
    files = server.files = official(case.split()[0], tmp_path / "source")
    root = tmp_path / "root"
    data = module(root, limit=3, **kwargs)
    found = run(data, files, server)
    assert (found.photos, found.root) == (3, root)
    assert found.classes == len(data.benchmark.classes)
    # Every file that is needed, and neither training data nor archives nor scratch folders.
    assert len([path for path in root.rglob("*") if path.is_file()]) == count
    assert not list(root.rglob(".*"))
    source = contents(tmp_path / "source")
    for name, content in contents(root).items():
        if not name.endswith("instances_val2017.json"):
            assert content in source.values()
    # The second time there is nothing to do.
    asked = len(server.log)
    assert run(data, files, server) == found
    assert run(data, files, server, check=True) == found
    assert len(server.log) == asked == len(data.archives)


def test_what_was_found_is_said(server, tmp_path):
    files = server.files = official("voc21", tmp_path / "source")
    found = run(VOC(tmp_path / "root", limit=3), files, server)
    assert str(found) == (
        f"Pascal VOC 2012 (21 classes): 3 photos in {tmp_path / 'root'}, labels from "
        "VOCdevkit/VOC2012/SegmentationClass/*.png, 21 of 21 classes occur"
    )


def test_coco_photos_are_fetched_once_for_both_benchmarks(server, tmp_path):
    files = server.files = official("coco_stuff171", tmp_path / "source")
    root = tmp_path / "root"
    run(COCOStuff(root, limit=3), files, server)
    run(COCOObject(root, limit=3), files, server)
    run(COCOObject(root, limit=3, protocol="released"), files, server)
    assert sorted(name for name, _ in server.log) == sorted(files)


def test_check_only_looks(server, tmp_path):
    files = server.files = official("ade150", tmp_path / "source")
    with pytest.raises(DatasetNotFoundError, match="prepare --config"):
        run(ADE20K(tmp_path / "root"), files, server, check=True)
    assert not (tmp_path / "root").exists()
    assert not server.log
    miniatures.ade20k(tmp_path / "root")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    run(ADE20K(tmp_path / "root", limit=3), files, server, check=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(ValueError, match="Expected 2000 photos"):
        run(ADE20K(tmp_path / "root"), files, server, check=True)


def test_check_reads_every_file(server, tmp_path):
    files = official("ade150", tmp_path)
    photos = sorted(tmp_path.rglob("*.jpg"))
    photos[0].write_bytes(photos[0].read_bytes()[:-200])
    masks = sorted(tmp_path.rglob("*.png"))
    Image.new("L", (9, 15), 151).save(masks[1])
    with pytest.raises(ValueError, match=r"but 2 are not[\s\S]*00001\.jpg[\s\S]*\[151\]"):
        run(ADE20K(tmp_path, limit=3), files, server, check=True)


def test_an_archive_that_is_there_is_used_and_kept(server, tmp_path):
    files = official("cityscapes19", tmp_path / "source")
    root = tmp_path / "root"
    data = Cityscapes(root, limit=3)
    archives = miniature_archives(data, files)
    with pytest.raises(DatasetNotFoundError, match=r"cityscapes-dataset\.com") as error:
        prepare(data, archives=archives, console=Console(file=io.StringIO()))
    assert "gtFine_trainvaltest.zip" in str(error.value)
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    assert prepare(data, archives=archives, console=Console(file=io.StringIO())).photos == 3
    assert {path.name for path in root.glob("*.zip")} == set(files)
    assert not server.log


def test_folders_and_scenes_are_checked(tmp_path):
    miniatures.folder(tmp_path)
    found = prepare(Folder(tmp_path), console=Console(file=io.StringIO()))
    assert (found.photos, found.labels, found.classes) == (3, 4, 4)
    with pytest.raises(DatasetNotFoundError, match="make demo"):
        prepare(Scenes(tmp_path), check=True)


# ---- transfers -----------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 40
DIGEST = "md5:" + hashlib.md5(CONTENT).hexdigest()


def fetch(server, target, **kwargs):
    server.files.setdefault("file.zip", CONTENT)
    download(f"{server.url}/file.zip", target, pause=0, **{"digest": DIGEST, **kwargs})


def test_an_interrupted_transfer_goes_on(server, tmp_path):
    server.cuts = [1000, 0, 2500]
    said = []
    fetch(server, tmp_path / "file.zip", progress=lambda done, total: said.append((done, total)))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert [asked for _, asked in server.log] == [None, "bytes=1000-", "bytes=1000-", "bytes=3500-"]
    assert said[0] == (1000, len(CONTENT))
    assert said[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [tmp_path / "file.zip"]


def test_a_later_call_goes_on(server, tmp_path):
    server.cuts = [1000, 0, 0]
    with pytest.raises(DownloadError, match=r"1000 of 10240 bytes.*file\.zip\.part"):
        fetch(server, tmp_path / "file.zip", attempts=2)
    assert not (tmp_path / "file.zip").exists()
    server.cuts = []
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.log[-1] == ("file.zip", "bytes=1000-")


VERSIONS = [
    ({"ETag": '"one"'}, {"ETag": '"two"'}),
    ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"Last-Modified": "now"}),
    (  # a weak tag may stay the same while bytes change
        {"ETag": 'W/"a"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"ETag": 'W/"a"', "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
    ),
    ({}, {}),  # nothing to tell versions by, nor a digest: it starts anew
]


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("longer", [0, 7, -9000])
@pytest.mark.parametrize("versions", VERSIONS)
def test_a_file_that_changed_meanwhile_is_not_glued(versions, longer, heeds, server, tmp_path):
    server.headers, new = versions
    server.heeds_if_range = heeds
    server.cuts = [5000, 0]
    with pytest.raises(DownloadError, match="of 10240 bytes"):
        fetch(server, tmp_path / "file.zip", digest="", attempts=2)
    changed = CONTENT[::-1][: len(CONTENT) + min(longer, 0)] + bytes(max(longer, 0))
    server.files["file.zip"], server.headers = changed, new
    fetch(server, tmp_path / "file.zip", digest="")
    assert (tmp_path / "file.zip").read_bytes() == changed
    assert list(tmp_path.iterdir()) == [tmp_path / "file.zip"]


@pytest.mark.parametrize("headers", [old for old, _ in VERSIONS[:3]])
def test_a_file_that_did_not_change_goes_on(headers, server, tmp_path):
    server.headers = headers
    server.cuts = [5000, 0]
    with pytest.raises(DownloadError, match="of 10240 bytes"):
        fetch(server, tmp_path / "file.zip", digest="", attempts=2)
    fetch(server, tmp_path / "file.zip", digest="")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.log[-1] == ("file.zip", "bytes=5000-")
    assert list(tmp_path.iterdir()) == [tmp_path / "file.zip"]


@pytest.mark.parametrize("length", ["-5", "many", "", "1e4", "\u0663"])
def test_a_length_that_is_none_is_said(length, server, tmp_path):
    server.headers = {"Content-Length": length.encode().decode("latin-1")}
    with pytest.raises(DownloadError, match=r"its length in bytes.*file\.zip from elsewhere"):
        fetch(server, tmp_path / "file.zip")
    assert len(server.log) == 1
    assert not list(tmp_path.iterdir())


def test_no_more_than_the_size_is_received(server, tmp_path, monkeypatch):
    monkeypatch.setattr("ovss.datamodules.download.http.BLOCK", 100)
    server.headers = {"Content-Length": None}
    said = []
    with pytest.raises(DownloadError, match="to have 1000 bytes, but got 1100"):
        fetch(server, tmp_path / "file.zip", size=1000, progress=lambda *now: said.append(now))
    assert said[-1] == (1000, None)
    assert not list(tmp_path.iterdir())
    server.headers = {}  # a length that is wrong is seen before a byte is received
    with pytest.raises(DownloadError, match="to have 1000 bytes, but got 10240"):
        fetch(server, tmp_path / "file.zip", size=1000, progress=lambda *now: said.append(now))
    assert said[-1] == (1000, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:9/a", "file:///etc/passwd", "data:,a"])
def test_redirects_stay_on_the_web(target, server, tmp_path):
    server.statuses, server.headers = [302], {"Location": target}
    with pytest.raises(DownloadError, match=re.escape(target)):
        fetch(server, tmp_path / "file.zip")
    assert len(server.log) == 1
    server.statuses, server.headers = [302], {"Location": f"{server.url}/file.zip"}
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_every_archive_from_a_server_has_a_checksum_where_one_is_published():
    modules = (ADE20K, VOC, COCOObject, COCOStuff, PascalContext)
    without = {a.name for module in modules for a in module.archives if not a.digest}
    assert without == {"stuffthingmaps_trainval2017.zip"}  # its authors publish none


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.ranges = False
    server.cuts = [1000]
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_only_verified(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_part_of_a_longer_file_starts_anew(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT + b"more")
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [b"precious", b"", CONTENT, CONTENT + b"more", None])
def test_a_part_that_is_a_link_is_not_written_to(there, server, tmp_path):
    target, part = tmp_path / "precious", tmp_path / "file.zip.part"
    if there is not None:
        target.write_bytes(there)
    part.symlink_to(target)
    with pytest.raises(ValueError, match=r"file\.zip\.part not to be a link, .*precious; remove"):
        fetch(server, tmp_path / "file.zip")
    assert (target.read_bytes() if target.exists() else None) == there
    assert server.log == []


def test_a_part_that_is_a_pipe_is_not_waited_for(server, tmp_path):
    os.mkfifo(tmp_path / "file.zip.part")
    with pytest.raises(ValueError, match="but it is a pipe"):
        fetch(server, tmp_path / "file.zip")


@pytest.mark.parametrize("kwargs", [{"digest": "sha1:" + "0" * 40}, {"size": 5}])
def test_a_wrong_file_is_never_used(kwargs, server, tmp_path):
    with pytest.raises(DownloadError, match=r"Expected file\.zip to have"):
        fetch(server, tmp_path / "file.zip", **kwargs)
    assert not list(tmp_path.iterdir())


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    fetch(server, tmp_path / "file.zip")
    assert len(server.log) == 3


def test_a_file_that_is_gone(server, tmp_path):
    with pytest.raises(DownloadError, match=r"404.*nothing\.zip.*run this again"):
        download(f"{server.url}/nothing.zip", tmp_path / "nothing.zip", pause=0)
    assert len(server.log) == 1


def test_no_server(tmp_path):
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9/a"):
        download("http://127.0.0.1:9/a", tmp_path / "a", attempts=2, pause=0)
    with pytest.raises(DownloadError, match="http or https"):
        download("file:///etc/passwd", tmp_path / "a")


def test_wrong_checksum_in_prepare(server, tmp_path):
    files = official("ade150", tmp_path / "source")
    server.files = {"ADEChallengeData2016.zip": zip_of({"a": b"another file"})}
    with pytest.raises(DownloadError, match=r"ADEChallengeData2016\.zip to have"):
        run(ADE20K(tmp_path / "root", limit=3), files, server)
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]


@pytest.mark.parametrize("root", ["file", "file/data"])
def test_a_root_that_cannot_be_written(root, server, tmp_path):
    files = server.files = official("ade150", tmp_path / "source")
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=rf"write the data into .*{root}, but.*another folder"):
        run(ADE20K(tmp_path / root, limit=3), files, server)
    assert not server.log


# ---- archives ------------------------------------------------------------------------------------


def malicious():
    """Archives with members that have no business there."""
    for name in ("../evil", "/evil", "a/../../evil", "C:/evil", "..\\evil"):
        yield f"tar {name}", tar_of({"good": b"1", name: b"2"})
        yield f"zip {name}", zip_of({"good": b"1", name: b"2"})
    for kind in (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
            archive.addfile(tarfile.TarInfo("good"))
        yield f"tar type {kind.decode()}", buffer.getvalue()
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    yield "zip link", zip_of({info: b"/etc/passwd"})


@pytest.mark.parametrize(
    ("name", "content"), list(malicious()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_malicious_archives(name, content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    into = tmp_path / "deep" / "root"
    with pytest.raises(DownloadError, match="do not use this file"):
        extract(path, into, lambda read: lambda member: True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize("cut", [10, 300, 600])
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_archives_that_are_cut_short(pack, cut, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pack({"a": bytes(range(256)) * 2, "b": bytes(range(250)) * 2})[:cut])
    with pytest.raises(DownloadError):
        extract(path, tmp_path / "root", lambda read: lambda member: True)
    assert not list((tmp_path / "root").rglob("*"))


def test_a_damaged_zip_member(tmp_path):
    """Archives without a published checksum still have one a member."""
    content = bytearray(zip_of({"a": b"1" * 50, "b": bytes(range(256))}))
    content[content.index(bytes(range(100, 110)))] ^= 1
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="reading failed"):
        extract(path, tmp_path / "root", lambda read: lambda member: True)
    assert not list((tmp_path / "root").iterdir())


def test_extraction_joins_what_is_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(zip_of({"a/b/new": b"new", "a/b/half": b"whole", "c/d": b"d"}))
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/half").write_bytes(b"wh")
    (tmp_path / "root/a/b/other").write_bytes(b"other")
    assert extract(path, tmp_path / "root", lambda read: lambda member: True) == 3
    assert contents(tmp_path / "root") == {
        "a/b/half": b"whole",
        "a/b/new": b"new",
        "a/b/other": b"other",
        "c/d": b"d",
    }


def test_another_archive(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(zip_of({"a": b"1"}))
    with pytest.raises(DownloadError, match="none among"):
        extract(path, tmp_path / "root", lambda read: lambda member: False)
    with pytest.raises(DownloadError, match=r"Expected val\.txt in"):
        extract(path, tmp_path / "root", lambda read: read("val.txt"))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DownloadError, match="neither"):
        extract(path, tmp_path / "root", lambda read: lambda member: True)
