//! The accepted and the held version of each feed, as files: `feeds/NAME.accepted` and
//! `feeds/NAME.held` in the state directory, one prefix per line, replaced atomically.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use super::{Entries, Guard, Report, parse};

const ACCEPTED: &str = "accepted";
const HELD: &str = "held";

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store and removes what belongs to no feed of these names.
    pub(super) fn open<'a>(state_dir: &Path, names: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let dir = state_dir.join("feeds");
        fs::create_dir_all(&dir)?;
        let names: Vec<&str> = names.collect();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let ours = path.extension().is_some_and(|extension| extension == ACCEPTED || extension == HELD);
            let known = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| names.contains(&stem));
            if ours && !known {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { dir })
    }

    /// Reads the accepted version; `None` where there is none yet.
    pub(super) fn accepted(&self, name: &str, guard: Option<&Guard>) -> io::Result<Option<(Entries, Report)>> {
        match File::open(self.path(name, ACCEPTED)) {
            Ok(file) => parse::read(BufReader::with_capacity(1 << 16, file), guard).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the number of prefixes of the accepted version.
    pub(super) fn count(&self, name: &str) -> io::Result<usize> {
        Ok(self.accepted(name, None)?.map_or(0, |(entries, _)| entries.len()))
    }

    /// Accepts a version (`None`: the accepted one stands), and forgets what was held.
    pub(super) fn accept(&self, name: &str, entries: Option<&Entries>) -> io::Result<()> {
        if let Some(entries) = entries {
            self.write(name, ACCEPTED, entries)?;
        }
        match fs::remove_file(self.path(name, HELD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a version aside until it is confirmed.
    pub(super) fn hold(&self, name: &str, entries: &Entries) -> io::Result<()> {
        self.write(name, HELD, entries)
    }

    /// Accepts the version that was put aside.
    pub(super) fn accept_held(&self, name: &str) -> io::Result<()> {
        fs::rename(self.path(name, HELD), self.path(name, ACCEPTED))
    }

    fn path(&self, name: &str, version: &str) -> PathBuf {
        self.dir.join(format!("{name}.{version}"))
    }

    fn write(&self, name: &str, version: &str, entries: &Entries) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        let mut output = BufWriter::with_capacity(1 << 16, file.as_file_mut());
        for net in entries.nets() {
            // Plain addresses are read several times as fast as prefixes.
            match net.prefix_len() == net.max_prefix_len() {
                true => writeln!(output, "{}", net.addr())?,
                false => writeln!(output, "{net}")?,
            }
        }
        output.flush()?;
        drop(output);
        file.as_file().sync_all()?;
        file.persist(self.path(name, version)).map_err(|error| error.error)?;
        Ok(())
    }
}
