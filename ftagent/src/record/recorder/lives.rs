//! Lives of the daemon in one incident: what went along with an earlier one is set aside, so that the next
//! writes over nothing.
//!
//! ```text
//! <paths.state>/captures/<id>/life-1/    0700: journal, core, configuration and indicators until the restart
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use super::meta::{CAPTURE, FileFacts, HOLD, META};
use crate::record::remote;

/// Before the number of a life, in the name of its directory.
const LIFE: &str = "life-";
/// Where the files of a life are gathered: a crash in between leaves no life in two halves.
const GATHERED: &str = ".life";
/// Earlier lives that are kept at most: the first, which saw it begin, and the latest.
pub const KEPT: usize = 8;

/// Returns the name of the directory of a life.
pub fn name(life: u32) -> String {
    format!("{LIFE}{life}")
}

/// Returns the earlier lives that a capture has directories of, in order.
pub fn list(dir: &Path) -> Vec<u32> {
    let number = |entry: fs::DirEntry| {
        let life = entry.file_name().to_str()?.strip_prefix(LIFE)?.parse().ok()?;
        // What another name leads to is not ours, nor is a link.
        (entry.file_type().ok()?.is_dir() && entry.file_name().to_str()? == name(life)).then_some(life)
    };
    let mut lives: Vec<u32> = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(number).collect();
    lives.sort_unstable();
    lives
}

/// Moves what an earlier life left beside the packets to a directory of its own, and returns its number; `None`:
/// there was nothing.
///
/// # Errors
/// What the file system says; it may be tried again, and nothing may be written before that.
pub fn set_aside(dir: &Path) -> io::Result<Option<u32>> {
    let gathered = dir.join(GATHERED);
    let (left, begun) = (left(dir)?, fs::symlink_metadata(&gathered).is_ok_and(|found| found.is_dir()));
    if left.is_empty() && !begun {
        return Ok(None);
    }
    if !begun {
        DirBuilder::new().mode(0o700).create(&gathered)?;
    }
    for name in left {
        fs::rename(dir.join(&name), gathered.join(&name))?;
    }
    File::open(&gathered)?.sync_all()?;
    let lives = list(dir);
    let life = lives.last().map_or(1, |last| last.saturating_add(1));
    fs::rename(&gathered, dir.join(name(life)))?;
    File::open(dir)?.sync_all()?;
    // What is on hold goes never.
    let too_many = if dir.join(HOLD).exists() { 0 } else { (lives.len() + 1).saturating_sub(KEPT) };
    for old in lives.iter().skip(1).take(too_many) {
        fs::remove_dir_all(dir.join(name(*old)))?;
    }
    Ok(Some(life))
}

/// Says where it is, and what is lacking.
pub fn words(dir: &Path, id: &str, life: u32) -> String {
    let lost = life as usize - list(dir).len().min(life as usize);
    let gone = if lost == 0 { String::new() } else { format!("; of {life} lives {lost} are not kept") };
    format!(
        "the daemon was started anew while this was open: journal and indicators begin with that, what was before is in \
         {}/ (`ftagent capture export {id} --capsule --life {life}`){gone}",
        name(life)
    )
}

/// Returns what is known of the files of an earlier life, by the names that they have once it is set aside.
pub fn renamed(files: &[FileFacts], life: u32) -> Vec<FileFacts> {
    let of = |file: &FileFacts| match file.name.contains('/') {
        true => file.clone(),
        false => FileFacts { name: format!("{}/{}", name(life), file.name), ..file.clone() },
    };
    files.iter().filter(|file| file.name != CAPTURE).map(of).collect()
}

/// Returns the names of files that are neither the recorder's own nor half written.
fn left(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let own = |name: &str| [CAPTURE, META, HOLD, remote::STATE].contains(&name) || name.starts_with('.');
        if let Ok(name) = entry.file_name().into_string()
            && entry.file_type()?.is_file()
            && !own(&name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn each_life_has_a_directory_and_the_first_and_the_latest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for own in [CAPTURE, META, HOLD, remote::STATE, ".tmp1"] {
            fs::write(dir.join(own), own).unwrap();
        }
        assert_eq!(set_aside(dir).unwrap(), None, "these are the recorder's own");
        std::os::unix::fs::symlink("/etc", dir.join("life-77")).unwrap();
        fs::create_dir(dir.join("life-x")).unwrap();
        for life in 1..=12 {
            // What is on hold goes never.
            if life == 12 {
                assert_eq!(list(dir).len(), 11);
                fs::remove_file(dir.join(HOLD)).unwrap();
            }
            for name in ["ticks", "state"] {
                fs::write(dir.join(name), life.to_string()).unwrap();
            }
            assert_eq!(set_aside(dir).unwrap(), Some(life));
            assert_eq!(set_aside(dir).unwrap(), None, "once");
        }
        assert_eq!(list(dir), [1, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(fs::read_to_string(dir.join("life-9/ticks")).unwrap(), "9");
        assert_eq!(fs::metadata(dir.join("life-9")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(dir.join(CAPTURE).exists() && !dir.join("ticks").exists());
        assert!(words(dir, "a", 12).ends_with("of 12 lives 4 are not kept"), "{}", words(dir, "a", 12));
    }

    #[test]
    fn a_crash_in_between_leaves_no_life_in_two_halves() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join(GATHERED)).unwrap();
        fs::write(dir.join(GATHERED).join("ticks"), "1").unwrap();
        fs::write(dir.join("state"), "1").unwrap();
        assert_eq!(set_aside(dir).unwrap(), Some(1));
        assert!(dir.join("life-1/ticks").exists() && dir.join("life-1/state").exists());
        assert!(!dir.join(GATHERED).exists());
        let of = |name: &str| FileFacts { name: name.to_owned(), bytes: 3, ..FileFacts::default() };
        let known = renamed(&[of(CAPTURE), of("state"), of("life-1/ticks")], 2);
        assert_eq!(known, [of("life-2/state"), of("life-1/ticks")]);
    }
}
