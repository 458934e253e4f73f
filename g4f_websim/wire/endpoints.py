"""The URLs of Websim's hosts and the paths of its two endpoints."""

# The site. It was https://websim.ai until mid 2025.
DEFAULT_URL = "https://websim.com"

# The environment variable that replaces DEFAULT_URL.
URL_VARIABLE = "WEBSIM_URL"

# The other host that serves the same API.
API_URL = "https://api.websim.com"

CHAT_PATH = "/api/v1/inference/run_chat_completion"
IMAGE_PATH = "/api/v1/inference/run_image_generation"

# Describes a project, without a login.
PROJECT_PATH = "/api/v1/projects/{project_id}"
