from typing import Any
from pathlib import Path
def write(page: Path, data: dict[str, Any]) -> None:
    pass
