import hashlib
import json
import os

import pytest

from workflow_scripts.maskdistill.data import datasets, folders
from workflow_scripts.maskdistill.data.datasets import ListedImage
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import images

FOLDER = {"adapter": "folder", "splits": {"train": ".", "val": "b"}}
VOC = {"adapter": "voc", "splits": {"train": "train", "val": "lists/val.txt"}}
COCO = {
    "adapter": "coco",
    "splits": {
        "train": {"annotations": "annotations/a.json", "images": "train2014", "image_list": None}
    },
}


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(dataset, root, split="train"):
    return [image.file_name for image in datasets.list_images(dataset, root, split)]


def test_a_folder_of_images_at_any_depth(tmp_path):
    touch(
        tmp_path, "b/2.PNG", "b/1.jpeg", "a.jpg", "c d/ü – 写.webp", "b/deep/er/3.tiff", "b/4.bmp"
    )
    touch(tmp_path, "b/notes.txt", ".hidden.png", ".cache/5.png", "b/.x/6.png", "jpg", "b/a.CR2")
    expected = ["a.jpg", "b/1.jpeg", "b/2.PNG", "b/4.bmp", "b/deep/er/3.tiff", "c d/ü – 写.webp"]
    assert names(FOLDER, tmp_path) == expected
    # File names stay relative to the root, whatever the split.
    assert names(FOLDER, tmp_path, "val") == expected[1:5]
    # What is no image is known by its type.
    skipped = datasets.list_split(FOLDER, tmp_path, "train").skipped
    assert folders.by_type(skipped) == {
        "hidden folder": {"count": 2, "example": ".cache"},
        ".cr2": {"count": 1, "example": "b/a.CR2"},
        ".txt": {"count": 1, "example": "b/notes.txt"},
        "hidden file": {"count": 1, "example": ".hidden.png"},
        "without suffix": {"count": 1, "example": "jpg"},
    }


def test_all_types_of_images_are_listed_whatever_their_case(tmp_path):
    expected = sorted(f"a{n}{s}" for n, s in enumerate(images.SUFFIXES))
    expected += sorted(f"b{n}{s.upper()}" for n, s in enumerate(images.SUFFIXES))
    touch(tmp_path, *expected)
    assert names(FOLDER, tmp_path) == expected
    assert datasets.list_split(FOLDER, tmp_path, "train").skipped == []


def test_the_types_of_all_shards_add_up(tmp_path):
    touch(tmp_path, "1.png", *(f"{n}.txt" for n in range(40)), *(f"{n}.mov" for n in range(9)))
    skipped = datasets.list_split(FOLDER, tmp_path, "train").skipped
    parts = [folders.by_type(datasets.images_of_shard(skipped, n, 5)) for n in range(5)]
    assert all(parts)
    assert folders.merged(parts) == folders.by_type(skipped)
    assert folders.lines(folders.by_type(skipped)) == [
        "skipped 40 × .txt (for example 0.txt)",
        "skipped 9 × .mov (for example 0.mov)",
    ]


def test_a_folder_that_may_not_be_opened_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "1.png", "closed/2.png")
    scan = os.scandir

    def refuse(path):  # because root may open everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = datasets.list_split(FOLDER, tmp_path, "train")
    assert [image.file_name for image in listing.images] == ["1.png"]
    kind = "folder that cannot be opened (Permission denied)"
    assert folders.by_type(listing.skipped) == {kind: {"count": 1, "example": "closed"}}


def test_a_linked_folder_is_followed(tmp_path):
    touch(tmp_path / "elsewhere", "1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(FOLDER, tmp_path / "root") == ["link/1.png"]


def test_links_that_lead_back_are_not_followed(tmp_path):
    touch(tmp_path, "sub/1.png", "sub/deep/2.png")
    (tmp_path / "sub/loop").symlink_to("..")
    (tmp_path / "sub/deep/itself").symlink_to(".")
    # Two ways to one folder, neither through itself, are two folders.
    (tmp_path / "other").symlink_to("sub/deep")
    assert names(FOLDER, tmp_path) == ["other/2.png", "sub/1.png", "sub/deep/2.png"]


def test_ids_tell_same_names_in_two_folders_apart_and_stay(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    before = {i.file_name: i for i in datasets.list_images(FOLDER, tmp_path, "train")}
    assert before["a/1.png"].image_id != before["b/1.png"].image_id
    assert all(0 <= image.image_id < 2**52 for image in before.values())
    touch(tmp_path, "0.png", "a/0.png", "z.png")
    after = {i.file_name: i for i in datasets.list_images(FOLDER, tmp_path, "train")}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    # As seen from another split of the same root, too.
    assert set(datasets.list_images(FOLDER, tmp_path, "val")) <= set(after.values())


def test_shards_share_the_images_and_stay():
    listed = [ListedImage(n, f"images/{n}.jpg") for n in range(2000)]
    parts = [datasets.images_of_shard(listed, shard, 8) for shard in range(8)]
    assert sorted(image for part in parts for image in part) == sorted(listed)
    assert all(180 < len(part) < 320 for part in parts)
    # Without every second image, the others stay where they were.
    fewer = [datasets.images_of_shard(listed[::2], shard, 8) for shard in range(8)]
    assert all(
        set(few) == set(part) & set(listed[::2]) for few, part in zip(fewer, parts, strict=True)
    )


def test_the_digest_sees_what_matters(tmp_path):
    touch(tmp_path, "a.png", "b.png")

    def digest():
        return datasets.listing_digest(datasets.list_images(FOLDER, tmp_path, "train"), tmp_path)

    first = digest()
    os.utime(tmp_path / "a.png", (1, 1))
    touch(tmp_path, "notes.txt")
    assert digest() == first
    touch(tmp_path, "c.png")
    added = digest()
    (tmp_path / "c.png").rename(tmp_path / "d.png")
    renamed = digest()
    (tmp_path / "d.png").write_bytes(b"longer")
    resized = digest()
    assert len({first, added, renamed, resized}) == 4
    (tmp_path / "d.png").unlink()
    assert digest() == first
    # A listed image that is not there does not stop the listing, and its arrival is noticed.
    absent = [ListedImage(1, "absent.png")]
    without = datasets.listing_digest(absent, tmp_path)
    touch(tmp_path, "absent.png")
    assert datasets.listing_digest(absent, tmp_path) != without


def test_the_digest_of_labels_sees_those_that_are_read(tmp_path):
    touch(tmp_path, "ImageSets/Segmentation/train.txt", "SegmentationClass/a.png")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")

    def digests():
        listed = datasets.list_images(VOC, tmp_path, "train")
        return tuple(
            datasets.labels_digest(VOC, tmp_path, "train", listed, objects=objects)
            for objects in (False, True)
        )

    first = digests()
    os.utime(tmp_path / "SegmentationClass/a.png", (1, 1))
    touch(tmp_path, "SegmentationClass/c.png", "JPEGImages/a.jpg")  # of no image of this split
    assert digests() == first
    touch(tmp_path, "SegmentationObject/a.png")
    objects = digests()
    assert objects[0] == first[0]
    touch(tmp_path, "SegmentationClassAug/b.png")
    augmented = digests()
    (tmp_path / "SegmentationClass/a.png").write_bytes(b"corrected")
    assert len({first, objects, augmented, digests()}) == 4
    assert len({first[0], augmented[0], digests()[0]}) == 3
    touch(tmp_path, "labelmap.txt")
    named = digests()
    (tmp_path / "labelmap.txt").write_bytes(b"y")  # as long as before
    assert len({augmented[0], named[0], digests()[0]}) == 3


def test_the_digest_of_labels_of_coco_is_that_of_its_file(tmp_path):
    write_coco(tmp_path, [(9, "9.jpg")])

    def digest():
        return datasets.labels_digest(COCO, tmp_path, "train", [], objects=True)

    first, path = digest(), tmp_path / "annotations" / "a.json"
    os.utime(path, (1, 1))
    assert digest() == first
    path.write_text(path.read_text().replace("9", "8"))  # as long as before
    assert digest() != first


def test_voc_lists(tmp_path):
    touch(tmp_path, "ImageSets/Segmentation/train.txt", "lists/val.txt")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_02\n\n2007_01 \n")
    (tmp_path / "lists/val.txt").write_text("JPEGImages/2008_1.jpg SegmentationClass/2008_1.png\n")
    assert names(VOC, tmp_path) == ["JPEGImages/2007_01.jpg", "JPEGImages/2007_02.jpg"]
    assert names(VOC, tmp_path, "val") == ["JPEGImages/2008_1.jpg"]
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("scene.v2.01\nscene.v2.02\n")
    assert names(VOC, tmp_path) == ["JPEGImages/scene.v2.01.jpg", "JPEGImages/scene.v2.02.jpg"]


def test_voc_names_with_spaces(tmp_path):
    touch(tmp_path, "ImageSets/Segmentation/train.txt", "JPEGImages/my image.jpg")
    touch(tmp_path, "JPEGImages/2008_1.jpg", "JPEGImages/a b.v2.jpg", "JPEGImages/my.jpg")
    path = tmp_path / "ImageSets/Segmentation/train.txt"
    path.write_text("my image\nin a folder/a b.v2.JPG \n2008_1  -1\n")
    expected = ["JPEGImages/2008_1.jpg", "JPEGImages/a b.v2.jpg", "JPEGImages/my image.jpg"]
    assert names(VOC, tmp_path) == expected


def test_voc_images_of_other_types(tmp_path):
    touch(tmp_path, "ImageSets/Segmentation/train.txt", "JPEGImages/a.png", "JPEGImages/b.JPG")
    touch(tmp_path, "JPEGImages/c.heic", "JPEGImages/d.jpg", "JPEGImages/d.png", "JPEGImages/e.txt")
    touch(tmp_path, "JPEGImages/f.v2.tif", "JPEGImages/g h.webp")
    path = tmp_path / "ImageSets/Segmentation/train.txt"
    # A photograph that is not there is rejected when it is read.
    path.write_text("a\nb.jpg\nc\nd\ne\nf.v2\ng h\n")
    expected = ["a.png", "b.JPG", "c.heic", "d.jpg", "e.jpg", "f.v2.tif", "g h.webp"]
    assert names(VOC, tmp_path) == [f"JPEGImages/{name}" for name in expected]
    path.write_text("d.png\nJPEGImages/d.jpg SegmentationClass/d.png\n")
    assert names(VOC, tmp_path) == ["JPEGImages/d.jpg", "JPEGImages/d.png"]
    touch(tmp_path, "JPEGImages/a.webp")
    path.write_text("a\n")
    with pytest.raises(InputError, match=r"train\.txt: 'a' may be a\.png or a\.webp in JPEGImages"):
        names(VOC, tmp_path)


def write_coco(root, entries, split="train"):
    path = root / "annotations" / "a.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": [{"id": i, "file_name": name} for i, name in entries]}))
    datasets.coco_images.cache_clear()


def test_coco_keeps_its_own_ids(tmp_path):
    write_coco(tmp_path, [(139, "000139.jpg"), (9, "000009.jpg"), (40, "000040.jpg")])
    listed = datasets.list_images(COCO, tmp_path, "train")
    assert listed == [
        ListedImage(9, "train2014/000009.jpg"),
        ListedImage(40, "train2014/000040.jpg"),
        ListedImage(139, "train2014/000139.jpg"),
    ]


def test_coco_with_an_image_list(tmp_path):
    write_coco(tmp_path, [(139, "000139.jpg"), (9, "000009.jpg"), (40, "000040.jpg")])
    split = {**COCO["splits"]["train"], "image_list": str(tmp_path / "list.txt")}
    dataset = {"adapter": "coco", "splits": {"train": split}}
    with pytest.raises(InputError, match=r"list\.txt: no such list of images"):
        names(dataset, tmp_path)
    (tmp_path / "list.txt").write_text("train2014/000139.jpg\n\n000009.jpg\n")
    assert names(dataset, tmp_path) == ["train2014/000009.jpg", "train2014/000139.jpg"]
    (tmp_path / "list.txt").write_text("40\n139\n")
    assert names(dataset, tmp_path) == ["train2014/000040.jpg", "train2014/000139.jpg"]
    (tmp_path / "list.txt").write_text("000139.jpg\n000777.jpg\n")
    with pytest.raises(InputError, match=r"1 listed images are not in .*000777\.jpg"):
        names(dataset, tmp_path)


def test_coco_without_a_list_of_images(tmp_path):
    write_coco(tmp_path, [(139, "000139.jpg"), (9, "000009.jpg"), (40, "000040.jpg")])
    (tmp_path / "list.txt").write_text("train2014/000139.jpg\nelsewhere.jpg\n40\n777\n")
    split = {**COCO["splits"]["train"], "excluded_list": str(tmp_path / "list.txt")}
    dataset = {"adapter": "coco", "splits": {"train": split}}
    assert names(dataset, tmp_path) == ["train2014/000009.jpg"]
    (tmp_path / "list.txt").unlink()
    with pytest.raises(InputError, match=r"list\.txt: no such list of images; check `splits`"):
        names(dataset, tmp_path)


def test_the_shipped_list_of_coco20k(tmp_path, monkeypatch):
    """It is the published one, whose lines are file names, to the last byte."""
    monkeypatch.chdir(tmp_path)
    ids = datasets.read_image_list("resources/coco20k.txt")  # from anywhere
    assert len(set(ids)) == 19_817
    published = "".join(f"train2014/COCO_train2014_{int(i):012d}.jpg\n" for i in ids)
    digest = hashlib.sha256(published.encode()).hexdigest()
    assert digest == "74637e9b4f93f2ebef9b1f664aff53edd1f41ef08dad97bd22ce8e455052b335"


def test_listings_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; set `root`"):
        names(FOLDER, tmp_path / "nowhere")
    with pytest.raises(InputError, match="no images for the split 'train': it is empty"):
        names(FOLDER, tmp_path)
    touch(tmp_path, "a.cr2", "b.cr2")
    with pytest.raises(InputError, match=r"split 'train': skipped 2 × \.cr2 \(for example a"):
        names(FOLDER, tmp_path)
    with pytest.raises(InputError, match=r"b: no such folder; check `splits`"):
        names(FOLDER, tmp_path, "val")
    with pytest.raises(InputError, match=r"no list ImageSets/Segmentation/train\.txt"):
        names(VOC, tmp_path)
    with pytest.raises(InputError, match=r"a\.json: no such file; check `annotations`"):
        names(COCO, tmp_path)


def test_names_and_ids_that_stand_twice(tmp_path):
    touch(tmp_path, "ImageSets/Segmentation/train.txt")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match=r"JPEGImages/a\.jpg' is listed twice"):
        names(VOC, tmp_path)
    write_coco(tmp_path, [(1, "a.jpg"), (1, "b.jpg")])
    with pytest.raises(InputError, match=r"a\.json: the image id 1 occurs twice"):
        names(COCO, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 3}'])
def test_files_that_are_no_coco_annotations(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: not"):
        datasets.read_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"id": 1}, r"images\[1\] has no `file_name`"),
        ({"file_name": "b.jpg"}, r"images\[1\]: `id` is None"),
        ({"id": "first", "file_name": "b.jpg"}, "`id` is 'first'; it must be a whole number"),
        ("b.jpg", r"images\[1\] is 'b\.jpg'"),
    ],
)
def test_images_of_coco_that_cannot_be(tmp_path, image, message):
    first = {"id": "9", "file_name": "a.jpg"}
    (tmp_path / "a.json").write_text(json.dumps({"images": [first]}))
    assert datasets.read_coco(tmp_path / "a.json")["images"] == [{**first, "id": 9}]
    (tmp_path / "a.json").write_text(json.dumps({"images": [first, image]}))
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        datasets.read_coco(tmp_path / "a.json")


def test_a_name_that_is_not_utf_8(tmp_path):
    touch(tmp_path, "1.png")
    try:
        touch(tmp_path, os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("the file system takes no such name")
    assert names(FOLDER, tmp_path) == ["1.png"]
    skipped = folders.by_type(datasets.list_split(FOLDER, tmp_path, "train").skipped)
    assert skipped == {"with a name that is not UTF-8": {"count": 1, "example": r"caf\xe9.png"}}


def test_too_many_rejected_images():
    def check(bad, good, share=0.01, count=2):
        rows = [{"file_name": f"{n}.jpg", "status": "empty file"} for n in range(bad)]
        rows += [{"file_name": "x.jpg", "status": "ok"}] * good
        datasets.check_rejected(rows, (share, count), "shard 3")

    check(0, 0)
    check(2, 0)  # a small shard may hold nothing but bad images, if these are few
    check(2, 5)
    check(5, 495)
    for bad, good in ((3, 5), (6, 494)):
        with pytest.raises(InputError, match=rf"shard 3: {bad} of .*0\.jpg: empty file.*raise"):
            check(bad, good)
