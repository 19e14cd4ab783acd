//! What tells this machine from others that speak to the same daemon or provider.

use std::{fs, path::Path};

/// Where it is found: what is made for it first (machine-id(5)), then what people gave it.
const PLACES: [&str; 3] = ["/etc/machine-id", "/etc/hostname", "/proc/sys/kernel/hostname"];

/// Returns the identity of this machine; `None` where it has none. It is confidential: only a hash of it leaves the
/// machine.
pub fn id() -> Option<String> {
    id_in(PLACES.map(Path::new))
}

fn id_in<'a>(places: impl IntoIterator<Item = &'a Path>) -> Option<String> {
    let read = |place| fs::read_to_string(place).ok();
    // What every fresh image and every nameless machine has is nobody's.
    let own = |id: &String| !matches!(id.as_str(), "" | "uninitialized" | "localhost" | "(none)");
    places.into_iter().filter_map(read).map(|text| text.trim().to_owned()).find(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_an_identity_is_not_taken_for_another_machine() {
        let dir = tempfile::tempdir().unwrap();
        let [id, name] = ["machine-id", "hostname"].map(|name| dir.path().join(name));
        let found = || id_in([id.as_path(), name.as_path()]);
        assert_eq!(found(), None);
        fs::write(&id, "uninitialized\n").unwrap();
        fs::write(&name, "localhost\n").unwrap();
        assert_eq!(found(), None);
        fs::write(&name, "edge-7\n").unwrap();
        assert_eq!(found().as_deref(), Some("edge-7"));
        fs::write(&id, "4c1f\n").unwrap();
        assert_eq!(found().as_deref(), Some("4c1f"));
    }
}
