"""The kinds of sources by the names that `data.kind` takes: the file here and the class in it."""

# Behind each, what `data.source` names.
KINDS = {
    "digits": "digits:Digits",  # nothing: the images are embedded
    "ilsvrc": "ilsvrc:Ilsvrc",  # the folder of the three archives as downloaded
    "folder": "folders:Folder",  # a folder with train/ and val/, or with train.tar and val.tar
    "tfds": "tfds_source:Tfds",  # the data_dir of TFDS; "" is its usual one
}
