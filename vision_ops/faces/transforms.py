"""How published embedders want their faces, by the names that people have for them.

All take aligned crops (`vision_ops.faces.align`); what differs is size, channels and scaling.
"""

from vision_ops.faces import FacePreprocess

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FACE_TRANSFORMS = {
    "arcface": FacePreprocess(),
    "adaface": FacePreprocess(channels="BGR"),
    "mobilefacenet": FacePreprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, flip_sum=True),
    "sface": FacePreprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0),
    "facenet": FacePreprocess(height_px=160, width_px=160, std=(128 / 255, 128 / 255, 128 / 255)),
}
"""arcface        112 px, RGB, (x - 127.5) / 127.5: insightface's networks (Deng et al. 2019)
adaface        the same, BGR (Kim et al. 2022)
mobilefacenet  112 px, RGB, ImageNet's mean and deviation, the mirror image's added: foamliu's state
sface          112 px, RGB, 0..255: what OpenCV's FaceRecognizerSF, which is given BGR, hands over
facenet        160 px, RGB, (x - 127.5) / 128: facenet-pytorch's (Schroff et al. 2015)"""
