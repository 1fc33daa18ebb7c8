"""The first entries of sets of prompts, as they are published."""

# As published: DrawBench's sheet, prompts/evaluation_metadata.jsonl of GenEval, examples/dataset/color_val.txt of
# T2I-CompBench++, VBench_full_info.json, VBench2_full_info.json and VBench2_full_text_info.json of VBench-2.0.
DRAWBENCH = (
    'Prompts,Category\nA red colored car.,Colors\n"A pear cut into seven pieces, arranged in a ring.",Counting\n'
)
GENEVAL = (
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}\n'
    '{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], '
    '"prompt": "a photo of two clocks"}\n'
    '{"tag": "position", "include": [{"class": "tv", "count": 1}, {"class": "dog", "count": 1, "position": '
    '["right of", 0]}], "prompt": "a photo of a dog right of a tv"}\n'
)
COMPBENCH = "a green bench and a blue bowl\nA long, narrow yellow kitchen with black and white floor tiles.\n"
VBENCH = (
    '[{"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]}, {"prompt_en": "a bird and '
    'a cat", "dimension": ["multiple_objects"], "auxiliary_info": {"multiple_objects": {"object": "bird and cat"}}}]'
)
VBENCH2 = """[
    {
        "prompt_en": "Garden, zoom in.",
        "dimension": [
            "Camera_Motion"
        ],
        "auxiliary_info": "zoom_in"
    }
]"""
VBENCH2_ONCE = """{
    "A man is playing basketball.": {
        "caption": "A man is playing basketball.",
        "dimension": [
            "Diversity",
            "Human_Clothes"
        ]
    },
    "Garden, zoom in.": {
        "caption": "Garden, zoom in.",
        "dimension": [
            "Camera_Motion"
        ]
    }
}"""
BILINGUAL = 'prompt_en,prompt_zh\n"A cat, in the rain.",雨中的猫。\n'
