//! Routes that were asked for, until it was seen that they are gone: `routes.json` in the state directory. A BGP daemon
//! that does not answer says nothing of what it announces, and the ladder forgets what it took back. (Providers have
//! journals of their own.)

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{damaged, replace};
use crate::decide::ladder::Step;

/// Those that a plane of this configuration looks after.
pub const OWN: &str = "routes.json";
/// Those of an earlier configuration. Whoever has withdrawn them by hand removes the file.
pub const ORPHANS: &str = "routes.orphans.json";
const VERSION: u32 = 1;

/// A route that may be announced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Through whom, and how it is marked: by that it is known as ours.
    pub by: String,
    /// What was asked for.
    pub step: Step,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    routes: Vec<Asked>,
}

/// Writes one of the files, atomically; there is none where there is nothing to write.
///
/// # Errors
/// What the file system says.
pub fn save(state: &Path, file: &str, routes: &[Asked]) -> io::Result<()> {
    let path = state.join(file);
    if !routes.is_empty() {
        return replace(&path, &serde_json::to_vec(&Written { version: VERSION, routes: routes.to_vec() })?);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads both files. The second value is what the operator should know of those that cannot be used.
pub fn load(state: &Path) -> (Vec<Asked>, Vec<String>) {
    let (mut all, mut told) = (Vec::new(), Vec::new());
    for file in [OWN, ORPHANS] {
        let path = state.join(file);
        let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        let problem = match read {
            Ok(Written { version: VERSION, routes }) => {
                all.extend(routes);
                continue;
            }
            Ok(Written { version, .. }) => format!("is of version {version}, and this program reads {VERSION}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => format!("cannot be read ({error})"),
        };
        let consequence = "routes that may be announced are known by their marker alone, which a BGP daemon that is away \
                           does not show: look there for what is left over";
        told.push(damaged(&path, &problem, consequence));
    }
    (all, told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::ladder::What;

    #[test]
    fn they_are_found_again_or_told() {
        let dir = tempfile::tempdir().unwrap();
        let what = What::BlackHole { victim: "203.0.113.1/32".parse().unwrap() };
        let step = Step { id: 1, plane: "rtbh".into(), what, incident: "i".into(), reason: "r".into() };
        let asked = Asked { by: "gobgp".to_owned(), step };
        let one = std::slice::from_ref(&asked);
        assert_eq!(load(dir.path()), (Vec::new(), Vec::new()));
        for file in [OWN, ORPHANS] {
            save(dir.path(), file, one).unwrap();
            assert_eq!(load(dir.path()), (one.to_vec(), Vec::new()), "{file}");
            for text in ["", "{}", "{\"version\":9,\"routes\":[]}"] {
                fs::write(dir.path().join(file), text).unwrap();
                let (found, told) = load(dir.path());
                assert!(found.is_empty() && told[0].contains(&format!("{file}.bad-")), "{file} {text}: {told:?}");
            }
            save(dir.path(), file, one).unwrap();
            save(dir.path(), file, &[]).unwrap();
            assert!(!dir.path().join(file).exists(), "nothing is no file");
        }
    }
}
