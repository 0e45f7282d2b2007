"""The drawn dataset: faces, hard negatives and crowds made of arithmetic, for lessons and tests.

    canvas    soft shapes, and the kernel that pastes a sprite
    heads     a human head
    sprites   the bank of heads, cats, robots, clocks, and of things that only look like faces
    placing   where a head goes, and the box around it
    camera    the background behind a scene, the sensor before it
    scenes    a whole picture with its annotation, by (seed, index); the presets
    objects   whole pictures of several classes, with masks
    patches   one object in each picture, for classification
    crowd     the demo's picture

Drawn data shows mechanisms and directions; it proves nothing about photographs.
"""

from minidetect.data.synthetic.crowd import draw_crowd
from minidetect.data.synthetic.objects import OBJECTS4, SEGMENT, DrawnObjects, ObjectScene, ObjectSettings, draw_objects
from minidetect.data.synthetic.patches import draw_patches
from minidetect.data.synthetic.scenes import (
    FACES_EASY,
    FACES_HARD,
    FACES_PROFILE,
    FACES_SCALES,
    PRESETS,
    DrawnScenes,
    Scene,
    SceneSettings,
    draw_scene,
    scene_settings,
)

__all__ = [
    "FACES_EASY",
    "FACES_HARD",
    "FACES_PROFILE",
    "FACES_SCALES",
    "OBJECTS4",
    "PRESETS",
    "SEGMENT",
    "DrawnObjects",
    "DrawnScenes",
    "ObjectScene",
    "ObjectSettings",
    "Scene",
    "SceneSettings",
    "draw_crowd",
    "draw_objects",
    "draw_patches",
    "draw_scene",
    "scene_settings",
]
