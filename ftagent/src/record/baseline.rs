//! The checkpoint of what was learned: `baseline.json` in the state directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{damaged, replace};
use crate::decide::baseline::Checkpoint;

/// A file that is larger is none of ours.
const MOST_BYTES: u64 = 64 << 20;

/// What an operator is told to do about a checkpoint that cannot be used.
const CONSEQUENCE: &str = "learning starts anew: until the baseline is trusted again, only what the packets alone \
    prove is an attack. Where there is a good copy, `ftagent baseline import FILE` goes on from it";

/// Where the checkpoint is.
pub fn path(state: &Path) -> PathBuf {
    state.join("baseline.json")
}

/// Reads the checkpoint and gives it to `restore`, which says what is wrong with it. Returns
/// whether there was one to go on from. One that cannot be used is kept aside, and the error says
/// so in words for the operator.
///
/// # Errors
/// As said; the daemon starts all the same.
pub fn load(state: &Path, restore: impl FnOnce(Checkpoint) -> Result<(), String>) -> Result<bool, String> {
    let path = path(state);
    let problem = match read(&path) {
        Ok(checkpoint) => match restore(checkpoint) {
            Ok(()) => return Ok(true),
            Err(problem) => problem,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => format!("cannot be read ({error})"),
    };
    Err(damaged(&path, &problem, CONSEQUENCE))
}

fn read(path: &Path) -> io::Result<Checkpoint> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MOST_BYTES {
        return Err(io::Error::other(format!("{bytes} bytes are too many for a checkpoint")));
    }
    let text = fs::read(path)?;
    // The version first: another one's fields are not ours to judge.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(&text)?;
    if version != Checkpoint::VERSION {
        let what = format!("it is of version {version}, and this program reads version {}", Checkpoint::VERSION);
        return Err(io::Error::other(what));
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Writes the checkpoint.
///
/// # Errors
/// What the file system says; the last one is in place then.
pub fn save(state: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    replace(&path(state), &serde_json::to_vec(checkpoint)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Decider, Now, Settings};

    fn checkpoint() -> Checkpoint {
        let now = Now { mono_ns: 7, unix_ms: 1_700_000_000_123 };
        Decider::new(Settings { trust_after_s: 600, seed: 1, mode: crate::decide::mitigate::Mode::Enforce })
            .checkpoint(now)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), |_| unreachable!()), Ok(false), "there is none yet");
        save(dir.path(), &checkpoint()).unwrap();
        let mut read = None;
        let keep = |found| {
            read = Some(found);
            Ok(())
        };
        assert_eq!(load(dir.path(), keep), Ok(true));
        assert_eq!(read, Some(checkpoint()));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_kept_aside_and_told() {
        let whole = serde_json::to_string(&checkpoint()).unwrap();
        let other = format!("{{\"version\":{},\"shape\":\"unknown\"}}", Checkpoint::VERSION + 1);
        let cases = [
            (&whole[..whole.len() / 2], "cannot be read"),
            ("", "cannot be read"),
            ("\0\0\0\0", "cannot be read"),
            ("{}", "version"),
            (other.as_str(), "is of version 2"),
            (whole.as_str(), "holds nonsense"),
        ];
        for (text, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path()), text).unwrap();
            let told = load(dir.path(), |_| Err("holds nonsense".to_owned())).unwrap_err();
            assert!(told.contains(expected) && told.contains("learning starts anew"), "{told}");
            let kept: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(kept.len(), 1);
            let name = kept[0].file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with("baseline.json.bad-") && told.contains(name), "{name}: {told}");
            assert_eq!(fs::read_to_string(&kept[0]).unwrap(), text);
        }
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(save(&dir.path().join("gone"), &checkpoint()).is_err());
        fs::create_dir(path(dir.path())).unwrap();
        assert!(save(dir.path(), &checkpoint()).is_err(), "a folder is in its place");
        let told = load(dir.path(), |_| Ok(())).unwrap_err();
        assert!(told.contains("kept as"), "{told}");
        save(dir.path(), &checkpoint()).unwrap();
        assert_eq!(load(dir.path(), |_| Ok(())), Ok(true));
    }
}
