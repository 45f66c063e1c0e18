//! Files as they are told.

use moat_api::rest::file::{File, FileEvent};
use moat_model::Timestamp;
use moat_model::file::{FileEntry, FileKind, PATH_LEN_MAX, WatchEvent, WatchKind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{Answer, Failure};

/// A moment as text.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_millis()) * 1_000_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// An absolute path a kernel could take.
pub(super) fn path(field: &str, text: String) -> Answer<String> {
    if !text.starts_with('/') {
        return Err(Failure::invalid(field, "an absolute path is needed"));
    }
    if text.contains('\0') || text.len() > PATH_LEN_MAX {
        return Err(Failure::invalid(field, format!("no NUL, and at most {PATH_LEN_MAX} bytes")));
    }
    Ok(text)
}

/// Permissions in octal.
pub(super) fn mode(text: Option<&str>) -> Answer<Option<u32>> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.bytes().all(|b| (b'0'..=b'7').contains(&b)) && (1..=5).contains(&text.len());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.map(Some).ok_or_else(|| Failure::invalid("mode", "octal digits, `0644` for one, at most `7777`"))
}

/// A file as it is told.
pub(super) fn view(entry: FileEntry) -> File {
    let kind = match entry.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Other => "other",
    };
    File {
        name: entry.path.rsplit('/').next().unwrap_or_default().to_owned(),
        kind: kind.to_owned(),
        size: entry.size,
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        modified_at: rfc3339(Timestamp::from_millis(entry.modified_ms)),
        link_target: entry.link_target,
        path: entry.path,
    }
}

/// An event as it is told.
pub(super) fn event(event: WatchEvent) -> FileEvent {
    let kind = match event.kind {
        WatchKind::Created => "created",
        WatchKind::Written => "written",
        WatchKind::Changed => "changed",
        WatchKind::Removed => "removed",
        WatchKind::Renamed => "renamed",
        WatchKind::Overflow => "overflow",
    };
    FileEvent { event: kind.to_owned(), path: event.path, to: event.to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_paths() {
        assert_eq!(mode(Some("0644")).unwrap(), Some(0o644));
        assert_eq!(mode(Some("7777")).unwrap(), Some(0o7777));
        for bad in ["", "8", "+7", "10000", "rwx", "000000644"] {
            assert!(mode(Some(bad)).is_err(), "{bad}");
        }
        assert!(path("path", "relative".to_owned()).is_err());
        assert!(path("path", "/a\0b".to_owned()).is_err());
        assert_eq!(rfc3339(Timestamp::from_millis(1_500)), "1970-01-01T00:00:01.5Z");
    }
}
