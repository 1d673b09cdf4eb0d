from pathlib import Path

from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree

import randomz
from randomz.fingerprint import fingerprint, loaded_code, md5


def test_the_md5_of_a_file_is_the_known_one(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert md5(tmp_path / "a") == "900150983cd24fb0d6963f7d28e17f72"
    (tmp_path / "crlf").write_bytes(b"a\r\nb")
    (tmp_path / "lf").write_bytes(b"a\nb")
    assert md5(tmp_path / "crlf") != md5(tmp_path / "lf")


def test_the_md5_of_a_folder_is_dvcs_own(tmp_path):
    names = ["seed-10.safetensors", "seed-2.safetensors", "a/b.txt", "a-b", "é.txt"]
    tree = Tree()
    for name in names:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        tree.add(tuple(name.split("/")), Meta(), HashInfo("md5", md5(path)))
    tree.digest()
    assert md5(tmp_path / "folder") == tree.hash_info.value
    assert md5(tmp_path / "folder").endswith(".dir")


def test_a_fingerprint_is_that_of_the_values_and_not_of_their_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": 1.5, "b": [1, 2]}, {"a": 1}, {"a": "1", "b": [1, 2]}]
    assert len({fingerprint(value) for value in [{"a": 1, "b": [1, 2]}, *others]}) == 5


def test_the_code_is_what_is_imported_of_ours():
    code = loaded_code()
    assert code["randomz"] == md5(Path(randomz.__file__))
    assert code["randomz.fingerprint"] == md5(Path(randomz.__file__).with_name("fingerprint.py"))
    assert "dvc_data" not in code
