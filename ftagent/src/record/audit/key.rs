//! The key that signs checkpoints: Ed25519 (RFC 8032), `key.pem` (PKCS #8, RFC 5958) and `public.pem`
//! (RFC 8410), which openssl reads.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use ed25519_dalek::{
    Signer as _, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _},
};

use super::{AuditError, line::Hex};
use crate::record::replace;

/// The private key's file.
pub(super) const PRIVATE: &str = "key.pem";
/// The public key's file.
pub const PUBLIC: &str = "public.pem";

/// The key, and its name.
pub(super) struct Key {
    signing: SigningKey,
    pub(super) id: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    fn new(signing: SigningKey) -> Self {
        let id = key_id(&signing.verifying_key());
        Self { signing, id }
    }

    pub(super) fn public(&self) -> VerifyingKey {
        self.signing.verifying_key()
    }

    pub(super) fn sign(&self, text: &[u8]) -> [u8; 64] {
        self.signing.sign(text).to_bytes()
    }

    /// Reads the key; `None` where there is none.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>, AuditError> {
        let path = dir.join(PRIVATE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuditError::io("reading", &path, source)),
        };
        let wide = fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
        if wide {
            let narrow = fs::set_permissions(&path, Permissions::from_mode(0o600));
            narrow.map_err(|source| AuditError::io("taking away others' access to", &path, source))?;
        }
        match SigningKey::from_pkcs8_pem(&text) {
            Ok(signing) => Ok(Some(Self::new(signing))),
            Err(problem) => Err(AuditError::Key { path, problem: problem.to_string() }),
        }
    }

    /// Makes a key and writes it, readable by its owner alone.
    pub(super) fn create(dir: &Path) -> Result<Self, AuditError> {
        let path = dir.join(PRIVATE);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| AuditError::io("making", &path, io::Error::other(error)))?;
        let key = Self::new(SigningKey::from_bytes(&seed));
        let text = key.signing.to_pkcs8_pem(Default::default());
        let text = text.map_err(|error| AuditError::io("making", &path, io::Error::other(error)))?;
        // Files that replace others are made with 0600.
        replace(&path, text.as_bytes()).map_err(|source| AuditError::io("writing", &path, source))?;
        Ok(key)
    }

    /// Writes the public key beside it, where it is not there already.
    pub(super) fn publish(&self, dir: &Path) -> Result<(), AuditError> {
        let path = dir.join(PUBLIC);
        let text = public_pem(&self.public())?;
        if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        replace(&path, text.as_bytes()).map_err(|source| AuditError::io("writing", &path, source))
    }
}

/// Returns a public key as PEM.
fn public_pem(key: &VerifyingKey) -> Result<String, AuditError> {
    let text = key.to_public_key_pem(Default::default());
    text.map_err(|error| AuditError::Key { path: PUBLIC.into(), problem: error.to_string() })
}

/// Reads a public key.
///
/// # Errors
/// Where the file cannot be read, or holds something else.
pub fn read_public(path: &Path) -> Result<VerifyingKey, AuditError> {
    let text = fs::read_to_string(path).map_err(|source| AuditError::io("reading", path, source))?;
    VerifyingKey::from_public_key_pem(&text)
        .map_err(|problem| AuditError::Key { path: path.to_owned(), problem: problem.to_string() })
}

/// Returns the name of a key: the first 16 digits of its SHA-256.
pub fn key_id(key: &VerifyingKey) -> String {
    Hex::of(&[key.as_bytes()]).as_str().chars().take(16).collect()
}
