"""A store that was moved or copied together with its repository.

MLflow notes where artifacts are by their full path, and has no command that changes it.
"""

from __future__ import annotations

# All columns in which MLflow notes a place of artifacts.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow(store: str, place: str) -> None:
    """Lets the runs of a database find their artifacts where these lie now.

    store: its URI; place: that of the folder of artifacts beside it. What lay in a folder of the
    same name elsewhere is looked for here from now on; other places stay as they are.
    """
    from sqlalchemy import create_engine, text

    name = place.rpartition("/")[2]
    engine = create_engine(store)
    try:
        with engine.begin() as database:
            known = text("SELECT DISTINCT artifact_location FROM experiments")
            places = [row[0] for row in database.execute(known) if row[0] != place]
            for old in places:
                if not (old or "").startswith("file:") or old.rpartition("/")[2] != name:
                    continue
                for table, column in _PLACES:
                    change = f"UPDATE {table} SET {column} = :new "  # noqa: S608  # names are ours
                    change += f"|| substr({column}, :length) "
                    where = f"WHERE substr({column}, 1, :length - 1) = :old"
                    given = {"new": place, "old": old, "length": len(old) + 1}
                    database.execute(text(change + where), given)
    finally:
        engine.dispose()
