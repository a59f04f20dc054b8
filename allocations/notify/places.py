"""Where on the pages is what a notice is about, and how the way there is called."""

from __future__ import annotations

from dataclasses import dataclass

from allocations.policy.notices import NoticeKind

_OF_ALLOCATION = (
    NoticeKind.ENDS_SOON,
    NoticeKind.ENDED,
    NoticeKind.ARCHIVED,
    NoticeKind.RENEWED,
    NoticeKind.SUSPENDED,
    NoticeKind.RESUMED,
    NoticeKind.CLOSED,
)
_OF_REQUEST = (
    NoticeKind.REQUEST_SUBMITTED,
    NoticeKind.REQUEST_WAITS,
    NoticeKind.REVISION_REQUESTED,
    NoticeKind.REQUEST_APPROVED,
    NoticeKind.REQUEST_DECLINED,
)
_OF_PURGE = (
    NoticeKind.PURGE_PLANNED,
    NoticeKind.PURGE_REMINDER,
    NoticeKind.PURGE_DONE,
    NoticeKind.PURGE_CALLED_OFF,
    NoticeKind.PURGE_BROKE_OFF,
)
_OF_AREA = (
    NoticeKind.STORAGE_NEARING,
    NoticeKind.STORAGE_OVER,
    NoticeKind.STORAGE_LOCKED,
    NoticeKind.STORAGE_ENDED,
    NoticeKind.STORAGE_ARCHIVED_SOON,
    NoticeKind.STORAGE_RETURNED,
)
_OF_RESTORE = (NoticeKind.RESTORE_DONE, NoticeKind.RESTORE_FAILED)
# With the subject's id, where one is asked for.
_PLACES = (
    dict.fromkeys(_OF_ALLOCATION, ("/allocations/{}", "Open the allocation"))
    | dict.fromkeys(_OF_REQUEST, ("/requests/{}", "Open the request"))
    | dict.fromkeys(_OF_PURGE, ("/storage/purges/{}", "See what exactly, and what you can do"))
    | dict.fromkeys(_OF_AREA, ("/storage/areas/{}", "Open the storage"))
    | dict.fromkeys(_OF_RESTORE, ("/storage/restores/{}", "See what came back"))
    | {
        NoticeKind.EXEMPTION_DECIDED: ("/storage/exemptions/{}", "Open the storage"),
        NoticeKind.ARCHIVE_EXPIRES: ("/storage/archives/{}", "Look into the archive"),
        NoticeKind.SCHEDULE_REFUSED: ("/schedules/{}", "Open the schedule"),
        NoticeKind.SCHEDULE_PAUSED: ("/schedules/{}", "Open the schedule"),
        NoticeKind.INVITED: ("/", "Answer on your home page"),
        NoticeKind.SERVER_STOPS: ("/", "See what runs and what is left"),
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """A page by its path below the pages' address, and the words of the link there."""

    path: str
    title: str


def place_of(kind: NoticeKind, subject: str) -> Place | None:
    """Return the page of what a notice is about, None where there is none."""
    if kind not in _PLACES:
        return None
    path, title = _PLACES[kind]
    return Place(path.format(subject), title)
