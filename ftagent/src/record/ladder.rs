//! What is upstream: `ladder.json` in the state directory. Routes and diversions outlive the daemon, and the next
//! life of it goes on with them where this one stopped, instead of taking everything back in the middle of an attack.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{damaged, replace};
use crate::decide::ladder::Saved;

const VERSION: u32 = 1;
const FILE: &str = "ladder.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    ladder: Saved,
}

/// Writes it, atomically.
///
/// # Errors
/// What the file system says.
pub fn save(state: &Path, ladder: &Saved) -> io::Result<()> {
    let text = serde_json::to_vec(&Written { version: VERSION, ladder: ladder.clone() })?;
    replace(&state.join(FILE), &text)
}

/// Reads it; nothing where there is no file. The second value is what the operator should know of one that cannot
/// be used.
pub fn load(state: &Path) -> (Option<Saved>, Option<String>) {
    let path = state.join(FILE);
    let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
    let problem = match read {
        Ok(Written { version: VERSION, ladder }) => return (Some(ladder), None),
        Ok(Written { version, .. }) => format!("is of version {version}, and this program reads {VERSION}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, None),
        Err(error) => format!("cannot be read ({error})"),
    };
    let consequence = "what an earlier life of the daemon asked for upstream is taken back, and asked for again where \
                       it is needed; daily caps begin anew";
    (None, Some(damaged(&path, &problem, consequence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_again_or_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), (None, None));
        save(dir.path(), &Saved::default()).unwrap();
        assert_eq!(load(dir.path()), (Some(Saved::default()), None));
        for text in ["", "{}", "{\"version\":9,\"ladder\":{}}"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let (found, told) = load(dir.path());
            assert!(found.is_none() && told.is_some_and(|told| told.contains("ladder.json.bad-")), "{text}");
        }
    }
}
