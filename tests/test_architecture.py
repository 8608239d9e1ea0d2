"""docs/architecture.md draws the imports as they are."""

from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("models", "components", "pipeline", "serving")


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*HOUSES, exclude_type_checking_imports=True)


def arrows(graph, rooms):
    """Pairs of rooms of which the first imports the second, without those that a way around implies."""
    inside = {room: {room} | graph.find_descendants(room) for room in rooms}
    imported = {
        room: {
            other
            for other in rooms
            if other != room
            and any(
                graph.find_modules_directly_imported_by(m) & inside[other] for m in inside[room]
            )
        }
        for room in rooms
    }

    def reached(room, seen):
        for other in imported[room] - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    return {
        (room, other)
        for room, others in imported.items()
        for other in others
        if not any(other in reached(way, set()) for way in others - {other})
    }


def block(pairs):
    """A diagram of Mermaid."""
    lines = sorted(f"  {a.rpartition('.')[2]} --> {b.rpartition('.')[2]}" for a, b in pairs)
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


@pytest.mark.parametrize("house", ["houses", *HOUSES, "serving.server"])
def test_the_page_draws_what_is_imported(graph, house):
    rooms = HOUSES if house == "houses" else sorted(graph.find_children(house))
    wanted = block(arrows(graph, rooms))
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert wanted in page, (
        f"Put this into docs/architecture.md in the place of the old one:\n{wanted}"
    )


def test_no_folder_has_more_than_twelve_files():
    folders = {file.parent for house in HOUSES for file in (ROOT / house).rglob("*.py")}
    crowded = {str(f): n for f in folders if (n := len(list(f.glob("*.py")))) > 12}
    assert not crowded


def test_a_name_stands_for_one_file():
    shared = {"__init__", "__main__", "component", "cli", "settings", "compat"}
    names: dict[str, list[Path]] = {}
    for house in HOUSES:
        for file in (ROOT / house).rglob("*.py"):
            names.setdefault(file.stem, []).append(file.relative_to(ROOT))
    twice = {name: files for name, files in names.items() if len(files) > 1 and name not in shared}
    assert not twice
