//! The file: a tar archive (POSIX.1-1988, ustar) whose members have fixed names, the manifest first.
//!
//! Reading trusts nothing: other names, other kinds of entries, doubles, sizes beyond bounds and wrong digests are
//! refused before anything in it is looked at.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, BufReader, Read, Seek as _, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};
use thiserror::Error;

use super::{
    manifest::{Manifest, Member},
    member,
};
use crate::config::MOST_JOURNAL_BYTES;

/// The members after the manifest, in their order, with the bytes that each may have.
const MEMBERS: [(&str, u64); 8] = [
    (member::INCIDENT, 64 << 20),
    (member::CONFIG, 16 << 20),
    (member::BASELINE, 64 << 20),
    (member::DECISIONS, 1 << 30),
    (member::STATE, 256 << 20),
    (member::TICKS, MOST_JOURNAL_BYTES),
    (member::CAPTURE, 1 << 40),
    (member::INDICATORS, 256 << 20),
];
/// The bytes that a manifest may have.
const MANIFEST_BYTES: u64 = 1 << 20;
/// Members that are kept whole in memory.
const SMALL: [&str; 3] = [member::INCIDENT, member::CONFIG, member::BASELINE];

/// Why a capsule cannot be read.
#[derive(Debug, Error)]
pub enum CapsuleError {
    /// The file system says so.
    #[error("{}: cannot read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {what}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        what: String,
    },
}

/// A capsule that was read: everything in it is what its manifest says.
#[derive(Debug)]
pub struct Capsule {
    /// The manifest.
    pub manifest: Manifest,
    small: BTreeMap<String, Vec<u8>>,
    large: BTreeMap<String, File>,
}

impl Capsule {
    /// Returns a small member: incident, configuration, baseline.
    pub fn small(&self, name: &str) -> Option<&[u8]> {
        self.small.get(name).map(Vec::as_slice)
    }

    /// Returns a large member, from its beginning.
    pub fn large(&mut self, name: &str) -> Option<BufReader<File>> {
        let file = self.large.get_mut(name)?;
        file.rewind().ok()?;
        file.try_clone().ok().map(|file| BufReader::with_capacity(1 << 17, file))
    }
}

/// Where a member comes from.
#[derive(Debug)]
pub enum Source {
    /// Memory.
    Bytes(Vec<u8>),
    /// A file.
    File(PathBuf),
}

impl Source {
    fn open(&self) -> io::Result<(u64, Box<dyn Read + '_>)> {
        Ok(match self {
            Self::Bytes(bytes) => (bytes.len() as u64, Box::new(bytes.as_slice())),
            Self::File(path) => {
                let file = File::open(path)?;
                (file.metadata()?.len(), Box::new(file))
            }
        })
    }
}

/// Writes a capsule; `manifest` gets the members' digests. Nothing that exists is replaced.
///
/// # Errors
/// What the file system says.
pub fn write(out: &Path, mut manifest: Manifest, sources: &[(&str, Source)]) -> io::Result<Manifest> {
    manifest.members.clear();
    for (name, _) in MEMBERS {
        let Some((_, source)) = sources.iter().find(|(of, _)| *of == name) else { continue };
        let (bytes, mut reader) = source.open()?;
        let (read, sha256) = digest(&mut reader, &mut io::sink())?;
        if read != bytes {
            return Err(io::Error::other(format!("{name} changed while it was read: wait until its incident is over")));
        }
        manifest.members.push(Member { name: name.to_owned(), bytes, sha256 });
    }
    let dir = match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    let mut tar = Builder::new(io::BufWriter::with_capacity(1 << 17, &mut file));
    let text = serde_json::to_vec_pretty(&manifest)?;
    let seconds = u64::try_from(manifest.created_unix_ms / 1000).unwrap_or(0);
    append(&mut tar, member::MANIFEST, seconds, text.len() as u64, text.as_slice())?;
    for Member { name, bytes, .. } in &manifest.members {
        let Some((_, source)) = sources.iter().find(|(of, _)| of == name) else { continue };
        append(&mut tar, name, seconds, *bytes, source.open()?.1.take(*bytes))?;
    }
    tar.into_inner()?.flush()?;
    file.as_file().sync_all()?;
    file.persist_noclobber(out).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()?;
    Ok(manifest)
}

fn append(tar: &mut Builder<impl Write>, name: &str, mtime: u64, bytes: u64, data: impl Read) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(mtime);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    tar.append(&header, data)
}

/// Copies, and returns the bytes and their SHA-256.
fn digest(reader: &mut dyn Read, out: &mut dyn Write) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    let mut bytes = 0;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let part = buffer.get(..read).unwrap_or_default();
        hash.update(part);
        out.write_all(part)?;
        bytes += read as u64;
    }
    let text = hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _cannot_fail = write!(text, "{byte:02x}");
        text
    });
    Ok((bytes, text))
}

/// Returns whether a file is a capsule, by its name or by how it begins.
pub fn is_capsule(path: &Path) -> bool {
    if path.extension().is_some_and(|end| end == "ftcapsule") {
        return true;
    }
    let mut begin = [0; 512];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin.starts_with(b"manifest.json\0") && begin.get(257..262) == Some(b"ustar")
}

/// Reads a capsule, and checks everything in it.
///
/// # Errors
/// See [`CapsuleError`].
pub fn read(path: &Path) -> Result<Capsule, CapsuleError> {
    let file = File::open(path).map_err(|source| CapsuleError::Read { path: path.to_owned(), source })?;
    let cut = |error: io::Error| format!("it is no whole capsule ({error}): copy it again");
    parse(BufReader::with_capacity(1 << 17, file), &cut)
        .map_err(|what| CapsuleError::Refused { path: path.to_owned(), what })
}

fn parse(input: impl Read, cut: &dyn Fn(io::Error) -> String) -> Result<Capsule, String> {
    let mut archive = Archive::new(input);
    let mut found: Vec<Member> = Vec::new();
    let mut capsule: Option<Capsule> = None;
    // Raw: nothing in an extended header may change what stands in the plain one.
    for entry in archive.entries().map_err(cut)?.raw(true) {
        let mut entry = entry.map_err(cut)?;
        let (name, bytes) = expected(entry.header(), capsule.is_none())?;
        if found.iter().any(|member| member.name == name) {
            return Err(format!("it has two members `{name}`"));
        }
        let Some(capsule) = &mut capsule else {
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(cut)?;
            whole(name, text.len() as u64, bytes)?;
            let manifest = Manifest::read(&text)?;
            capsule = Some(Capsule { manifest, small: BTreeMap::new(), large: BTreeMap::new() });
            continue;
        };
        let (read, sha256) = if SMALL.contains(&name) {
            let mut text = Vec::new();
            let done = digest(&mut entry, &mut text).map_err(cut)?;
            capsule.small.insert(name.to_owned(), text);
            done
        } else if name == member::CAPTURE {
            digest(&mut entry, &mut io::sink()).map_err(cut)?
        } else {
            let mut file = tempfile::tempfile().map_err(|error| format!("there is no room to unpack it: {error}"))?;
            let done = digest(&mut entry, &mut file).map_err(cut)?;
            capsule.large.insert(name.to_owned(), file);
            done
        };
        whole(name, read, bytes)?;
        found.push(Member { name: name.to_owned(), bytes, sha256 });
    }
    let capsule = capsule.ok_or("it is empty")?;
    for listed in &capsule.manifest.members {
        match found.iter().find(|member| member.name == listed.name) {
            None => return Err(format!("`{}` is missing: it is cut short, copy it again", listed.name)),
            Some(member) if member == listed => {}
            Some(_) => return Err(format!("`{}` is not what its manifest says: it was changed", listed.name)),
        }
    }
    match found.iter().find(|member| !capsule.manifest.members.contains(member)) {
        Some(member) => Err(format!("`{}` is not in its manifest: it was added", member.name)),
        None => Ok(capsule),
    }
}

fn whole(name: &str, read: u64, bytes: u64) -> Result<(), String> {
    if read == bytes {
        return Ok(());
    }
    Err(format!("it is cut short: `{name}` ends after {read} of {bytes} bytes; copy it again"))
}

/// Returns which member a header is of, and its size.
fn expected(header: &Header, first: bool) -> Result<(&'static str, u64), String> {
    let shown = String::from_utf8_lossy(&header.path_bytes()).into_owned();
    if header.entry_type() != EntryType::Regular {
        return Err(format!("`{shown}` is no plain file: no capsule has such a member"));
    }
    let first_only = [(member::MANIFEST, MANIFEST_BYTES)];
    let known: &[(&'static str, u64)] = if first { &first_only } else { &MEMBERS };
    let Some((name, most)) = known.iter().find(|(name, _)| name.as_bytes() == &*header.path_bytes()) else {
        let which = if first {
            "first member of a capsule is its manifest, and this begins with"
        } else {
            "members of a capsule have fixed names, and none is"
        };
        return Err(format!("the {which} `{}`", shown.escape_debug()));
    };
    let bytes = header.entry_size().map_err(|_| format!("the size of `{name}` is no number"))?;
    if bytes > *most {
        return Err(format!("`{name}` is larger than {most} bytes: no capsule is"));
    }
    Ok((name, bytes))
}
