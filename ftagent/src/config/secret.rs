//! Secrets: never in the configuration itself, never on a command line, never told.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The longest secret that is read, bytes.
const MOST: u64 = 64 * 1024;

/// Where a secret is: an absolute path, or `credential:NAME` for one that systemd hands over
/// (`LoadCredential=`, systemd.exec(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFile {
    /// A file that only its owner may read.
    Path(PathBuf),
    /// A credential of the service.
    Credential(String),
}

/// A secret. Its value is shown by nothing but [`Self::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a value, for tests and for what is made at run time.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretFile {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("credential:") {
            Some(name) if !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".." => {
                Ok(Self::Credential(name.to_owned()))
            }
            Some(name) => Err(format!("\"{name}\" cannot be the name of a credential")),
            None if text.starts_with('/') => Ok(Self::Path(text.into())),
            None => Err(format!("\"{text}\" is neither an absolute path nor `credential:NAME`")),
        }
    }

    /// Reads the secret: the whole file, white space at both ends taken off.
    ///
    /// # Errors
    /// The file, what is wrong with it, and the remedy.
    pub fn read(&self) -> Result<Secret, String> {
        let (path, credential) = match self {
            Self::Path(path) => (path.clone(), false),
            Self::Credential(name) => {
                let dir = env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    format!("credential {name}: systemd handed over none; write LoadCredential={name}:… in the unit")
                })?;
                (Path::new(&dir).join(name), true)
            }
        };
        let wrong = |what: String| format!("{}: {what}", path.display());
        let read = || -> io::Result<(String, u32)> {
            let mut file = File::open(&path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut text = String::new();
            file.by_ref().take(MOST).read_to_string(&mut text)?;
            Ok((text, mode))
        };
        let (text, mode) = read().map_err(|error| wrong(format!("cannot be read ({error})")))?;
        // What systemd hands over lies in a directory that nobody else may enter.
        if !credential && mode & 0o077 != 0 {
            return Err(wrong(format!("may be read by others (mode {:o}): `chmod 600` it", mode & 0o777)));
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(wrong("is empty".to_owned()));
        }
        Ok(Secret(text.to_owned()))
    }

    /// Reads a file of lines `key = value` (`#` begins a comment), and returns the value of each key, in order.
    ///
    /// # Errors
    /// As [`Self::read`], and the keys that are missing.
    pub fn read_keys<const N: usize>(&self, keys: [&str; N]) -> Result<[Secret; N], String> {
        let whole = self.read()?;
        let value = |key: &str| {
            let lines = whole.expose().lines().filter(|line| !line.trim_start().starts_with('#'));
            let mut pairs = lines.filter_map(|line| line.split_once('='));
            let (_, value) = pairs.find(|(found, _)| found.trim() == key)?;
            let value = value.trim().trim_matches('"');
            (!value.is_empty()).then(|| Secret(value.to_owned()))
        };
        let missing: Vec<String> =
            keys.iter().filter(|key| value(key).is_none()).map(|key| format!("`{key} = …`")).collect();
        if !missing.is_empty() {
            return Err(format!("{self} does not have a line {}", missing.join(", nor ")));
        }
        Ok(keys.map(|key| value(key).unwrap_or_else(|| Secret(String::new()))))
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_file_of_its_own_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let secret = SecretFile::parse(path.to_str().unwrap()).unwrap();
        assert!(secret.read().unwrap_err().contains("cannot be read"));
        fs::write(&path, "key = abc\n# other = x\ntoken=\"d e f\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secret.read().unwrap_err().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let [key, token] = secret.read_keys(["key", "token"]).unwrap();
        assert_eq!((key.expose(), token.expose()), ("abc", "d e f"));
        assert!(secret.read_keys(["other"]).unwrap_err().contains("`other = …`"));
        assert_eq!(format!("{key:?}"), "Secret(…)");
        fs::write(&path, " \n").unwrap();
        assert!(secret.read().unwrap_err().contains("is empty"));
    }

    #[test]
    fn text_forms() {
        for wrong in ["", "relative", "credential:", "credential:../x", "credential:.."] {
            assert!(SecretFile::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(SecretFile::parse("credential:gobgp"), Ok(SecretFile::Credential("gobgp".into())));
    }
}
