"""What the older g4f lines lack, so that no other module has to know of it.

registry.py alone has more to say on g4f's lines: the four ways in which they keep their providers.
"""

try:
    from g4f.providers.helper import format_media_prompt
except ImportError:  # g4f up to 0.5.3
    from g4f.providers.helper import format_image_prompt as format_media_prompt

__all__ = ["format_media_prompt"]
