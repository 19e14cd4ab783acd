//! What is kept, and for how long: by age, by bytes, by what the disk has left. The oldest go first;
//! what is on legal hold, and what is being written, never.

use std::{fs, io, path::Path};

use nix::sys::statvfs::statvfs;

use super::store::{self, Entry};
use crate::config::Capture;

const DAY_MS: i64 = 86_400_000;
/// Before the name of what is being removed: no name of a capture begins so.
const REMOVING: &str = ".removing-";

/// A capture, as far as keeping it is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    id: String,
    bytes: u64,
    ended_ms: i64,
    fixed: bool,
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was removed.
    pub removed: Vec<String>,
    /// Bytes that are left.
    pub bytes: u64,
    /// What was to go and could not, in words.
    pub trouble: Option<String>,
}

/// Removes what is too old or too much. `busy`: what is being written.
pub fn sweep(root: &Path, limits: &Capture, now_ms: i64, busy: &[&str]) -> Swept {
    let mut swept = Swept::default();
    let entries = match store::list(root) {
        Ok(entries) => entries,
        Err(error) => {
            swept.trouble = Some(format!("{} cannot be read ({error})", root.display()));
            return swept;
        }
    };
    let kept: Vec<Kept> = entries.iter().map(|entry| kept(entry, busy)).collect();
    let free = statvfs(root).map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    swept.bytes = kept.iter().map(|kept| kept.bytes).sum();
    for due in choose(&kept, limits, now_ms, free) {
        match remove(root, &due.id) {
            Ok(true) => {
                swept.bytes = swept.bytes.saturating_sub(due.bytes);
                swept.removed.push(due.id.clone());
            }
            Ok(false) => {}
            Err(error) => swept.trouble = Some(format!("capture {} cannot be removed ({error})", due.id)),
        }
    }
    // What an earlier pass began.
    for left in fs::read_dir(root).into_iter().flatten().flatten() {
        if left.file_name().to_str().is_some_and(|name| name.starts_with(REMOVING)) {
            let _tried_again_next_time = fs::remove_dir_all(left.path());
        }
    }
    swept
}

fn kept(entry: &Entry, busy: &[&str]) -> Kept {
    let ended_ms = entry.meta.as_ref().and_then(|meta| meta.ended_ms).unwrap_or(entry.changed_ms);
    let fixed = entry.hold.is_some() || busy.contains(&entry.id.as_str());
    Kept { id: entry.id.clone(), bytes: entry.bytes, ended_ms, fixed }
}

/// Returns what has to go; `all` is oldest first.
fn choose<'a>(all: &'a [Kept], limits: &Capture, now_ms: i64, free: u64) -> Vec<&'a Kept> {
    let days_ms = i64::from(limits.keep_days).saturating_mul(DAY_MS);
    let mut bytes: u64 = all.iter().map(|kept| kept.bytes).sum();
    let mut free = free;
    let mut due = Vec::new();
    for kept in all.iter().filter(|kept| !kept.fixed) {
        let old = now_ms.saturating_sub(kept.ended_ms) > days_ms;
        if old || bytes > limits.keep_bytes || free < limits.min_free {
            bytes = bytes.saturating_sub(kept.bytes);
            free = free.saturating_add(kept.bytes);
            due.push(kept);
        }
    }
    due
}

/// Removes a capture, unless somebody has put it on hold meanwhile.
fn remove(root: &Path, id: &str) -> io::Result<bool> {
    let (dir, aside) = (root.join(id), root.join(format!("{REMOVING}{id}")));
    fs::rename(&dir, &aside)?;
    if aside.join(super::meta::HOLD).exists() {
        fs::rename(&aside, &dir)?;
        return Ok(false);
    }
    fs::remove_dir_all(&aside)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::recorder::{meta::Meta, store::Hold};

    fn limits(keep_days: u32, keep_bytes: u64, min_free: u64) -> Capture {
        Capture { keep_days, keep_bytes, min_free, ..crate::config::Config::default().capture }
    }

    #[test]
    fn the_oldest_go_first_and_what_is_held_never() {
        // Five captures of 100 bytes that ended 50, 40, 30, 20 and 10 days ago; the second is fixed.
        let of = |i: i64| Kept { id: i.to_string(), bytes: 100, ended_ms: (i - 5) * 10 * DAY_MS, fixed: i == 1 };
        let all: Vec<Kept> = (0..5).map(of).collect();
        let cases = [
            ("nothing is too much", limits(365, 1000, 0), 1000, ""),
            ("by days", limits(25, 1000, 0), 1000, "02"),
            ("by bytes", limits(365, 250, 0), 1000, "023"),
            ("to the byte", limits(365, 500, 0), 1000, ""),
            ("by free disk", limits(365, 1000, 1000), 850, "02"),
            ("a full disk", limits(365, 1000, 1000), 0, "0234"),
            ("all that may go", limits(1, 0, u64::MAX), 0, "0234"),
        ];
        for (case, limits, free, wanted) in cases {
            let due: String = choose(&all, &limits, 0, free).iter().map(|kept| kept.id.as_str()).collect();
            assert_eq!(due, wanted, "{case}");
        }
    }

    #[test]
    fn directories_go_and_those_on_hold_or_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("captures");
        assert_eq!(sweep(&root, &limits(1, 0, 0), 0, &[]), Swept::default(), "there are none yet");
        for (at, id) in (1..).zip(["old", "held", "busy", "new"]) {
            let made = store::make(&root, id).unwrap();
            let meta = Meta { id: id.to_owned(), begun_ms: at, ended_ms: Some(at * DAY_MS), ..Meta::default() };
            meta.save(&made).unwrap();
        }
        store::hold(&root, "held", &Hold::default()).unwrap();
        fs::create_dir(root.join(".removing-x")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let swept = sweep(&root, &limits(1, 1 << 30, 0), 5 * DAY_MS, &["busy"]);
        assert_eq!((swept.removed, swept.trouble), (vec!["old".to_owned()], None));
        let mut left: Vec<String> =
            fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["busy", "held", "link", "new"]);
    }
}
