//! What is kept, and for how long: by age, by bytes, by what the disk has left. The oldest go first;
//! what is on legal hold, and what is being written, never, and the latest that is complete by age alone.

use std::{fs, io, path::Path};

use nix::sys::statvfs::statvfs;

use super::{
    meta::{HOLD, Status},
    store::{self, Entry},
};
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
    complete: bool,
}

/// Why a capture goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is too old.
    Age,
    /// All of them take too much.
    Bytes,
    /// The disk has too little left.
    Free,
}

impl Why {
    /// Says it in words.
    pub fn words(self, limits: &Capture) -> String {
        match self {
            Self::Age => format!("it was older than {} days (`capture.keep_days`)", limits.keep_days),
            Self::Bytes => format!("captures took more than {} bytes (`capture.keep_bytes`)", limits.keep_bytes),
            Self::Free => format!(
                "less than {} bytes were free on the disk of `paths.state` (`capture.min_free`)",
                limits.min_free
            ),
        }
    }
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its name.
    pub id: String,
    /// Bytes that it took.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was removed.
    pub removed: Vec<Removed>,
    /// Bytes that are left.
    pub bytes: u64,
    /// What was to go and could not, in words.
    pub trouble: Option<String>,
}

/// Removes what is too old or too much. `busy`: what is being written.
pub fn sweep(root: &Path, limits: &Capture, now_ms: i64, busy: &[&str]) -> Swept {
    let mut swept = Swept { trouble: finish_removing(root), ..Swept::default() };
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
    for (due, why) in choose(&kept, limits, now_ms, free) {
        match remove(root, &due.id) {
            Ok(true) => {
                swept.bytes = swept.bytes.saturating_sub(due.bytes);
                swept.removed.push(Removed { id: due.id.clone(), bytes: due.bytes, why });
            }
            Ok(false) => {}
            Err(error) => swept.trouble = Some(format!("capture {} cannot be removed ({error})", due.id)),
        }
    }
    swept
}

fn kept(entry: &Entry, busy: &[&str]) -> Kept {
    let ended_ms = entry.meta.as_ref().and_then(|meta| meta.ended_ms).unwrap_or(entry.changed_ms);
    let busy = busy.contains(&entry.id.as_str());
    let complete = !busy && entry.meta.as_ref().is_some_and(|meta| meta.status != Status::Open);
    Kept { id: entry.id.clone(), bytes: entry.bytes, ended_ms, fixed: busy || entry.hold.is_some(), complete }
}

/// Returns what has to go, and why; `all` is oldest first. The latest that is complete is what people look at next: it
/// makes no room for others.
fn choose<'a>(all: &'a [Kept], limits: &Capture, now_ms: i64, free: u64) -> Vec<(&'a Kept, Why)> {
    let days_ms = i64::from(limits.keep_days).saturating_mul(DAY_MS);
    let latest = all.iter().filter(|kept| kept.complete).max_by_key(|kept| kept.ended_ms).map(|kept| &kept.id);
    let mut bytes: u64 = all.iter().map(|kept| kept.bytes).sum();
    let mut free = free;
    let mut due = Vec::new();
    for kept in all.iter().filter(|kept| !kept.fixed) {
        let why = match () {
            () if now_ms.saturating_sub(kept.ended_ms) > days_ms => Why::Age,
            () if Some(&kept.id) == latest => continue,
            () if bytes > limits.keep_bytes => Why::Bytes,
            () if free < limits.min_free => Why::Free,
            () => continue,
        };
        bytes = bytes.saturating_sub(kept.bytes);
        free = free.saturating_add(kept.bytes);
        due.push((kept, why));
    }
    due
}

/// Goes on with what an earlier pass began to remove. The daemon may have died between the removal's two looks: what is
/// on hold is put back. Says what could not be, in words.
fn finish_removing(root: &Path) -> Option<String> {
    let mut trouble = None;
    for left in fs::read_dir(root).into_iter().flatten().flatten() {
        let (name, aside) = (left.file_name(), left.path());
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(REMOVING)) else { continue };
        if !is_held(&aside) {
            let _tried_again_next_time = fs::remove_dir_all(&aside);
        } else if let Err(error) = put_back(root, id, &aside) {
            let place = aside.display();
            trouble = Some(format!("capture {id} is on legal hold, is in {place}, and cannot be put back ({error})"));
        }
    }
    trouble
}

/// Gives a capture its name back; where that has another directory by now, nothing is replaced.
fn put_back(root: &Path, id: &str, aside: &Path) -> io::Result<()> {
    let dir = root.join(id);
    if fs::symlink_metadata(&dir).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(aside, dir)
}

/// Returns whether a directory is on hold; where that cannot be known, it is.
fn is_held(dir: &Path) -> bool {
    match fs::symlink_metadata(dir.join(HOLD)) {
        Err(error) => error.kind() != io::ErrorKind::NotFound,
        Ok(_) => true,
    }
}

/// Removes a capture, unless somebody has put it on hold meanwhile.
fn remove(root: &Path, id: &str) -> io::Result<bool> {
    let (dir, aside) = (root.join(id), root.join(format!("{REMOVING}{id}")));
    fs::rename(&dir, &aside)?;
    if is_held(&aside) {
        put_back(root, id, &aside)?;
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
        let ended_ms = |i: i64| (i - 5) * 10 * DAY_MS;
        let of = |i: i64| Kept { id: i.to_string(), bytes: 100, ended_ms: ended_ms(i), fixed: i == 1, complete: true };
        let all: Vec<Kept> = (0..5).map(of).collect();
        let cases = [
            ("nothing is too much", limits(365, 1000, 0), 1000, ""),
            ("by days", limits(25, 1000, 0), 1000, "02"),
            ("by bytes", limits(365, 250, 0), 1000, "023"),
            ("to the byte", limits(365, 500, 0), 1000, ""),
            ("by free disk", limits(365, 1000, 1000), 850, "02"),
            ("a full disk, but for the latest", limits(365, 1000, 1000), 0, "023"),
            ("no bytes at all", limits(365, 0, 0), 1000, "023"),
            ("all that may go", limits(1, 0, u64::MAX), 0, "0234"),
        ];
        for (case, limits, free, wanted) in cases {
            let due: String = choose(&all, &limits, 0, free).iter().map(|(kept, _)| kept.id.as_str()).collect();
            assert_eq!(due, wanted, "{case}");
        }
        let why = |limits: &Capture| choose(&all, limits, 0, 100).into_iter().map(|(_, why)| why).collect::<Vec<_>>();
        assert_eq!(why(&limits(45, 350, 400)), [Why::Age, Why::Bytes, Why::Free]);
        // What is still written is not complete: the one before it stays as well.
        let mut open = all.clone();
        (open[4].fixed, open[4].complete) = (true, false);
        let due: String = choose(&open, &limits(365, 0, 0), 0, 0).iter().map(|(kept, _)| kept.id.as_str()).collect();
        assert_eq!(due, "02");
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
        // The daemon died while these were removed, after somebody had put them on hold.
        for (id, of) in [("saved", "saved"), ("twice", "busy")] {
            let made = store::make(&root, id).unwrap();
            fs::write(made.join("evidence"), id).unwrap();
            store::hold(&root, id, &Hold::default()).unwrap();
            fs::rename(made, root.join(format!("{REMOVING}{of}"))).unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let swept = sweep(&root, &limits(1, 1 << 30, 0), 5 * DAY_MS, &["busy"]);
        let [Removed { id, bytes, why: Why::Age }] = swept.removed.as_slice() else { panic!("{swept:?}") };
        assert_eq!((id.as_str(), *bytes > 0), ("old", true));
        assert!(swept.trouble.is_some_and(|trouble| trouble.contains("capture busy is on legal hold")));
        let mut left: Vec<String> =
            fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, [".removing-busy", "busy", "held", "link", "new", "saved"]);
        assert_eq!(fs::read_to_string(root.join("saved/evidence")).unwrap(), "saved");
        assert!(store::Opened::new(&root, "saved").unwrap().hold().is_some());
    }
}
