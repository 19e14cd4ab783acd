//! The entries that operators blocked or allowed: why, by whom, until when.
//!
//! The kernel knows prefixes and expiries; this store knows the rest, keeps it in a file, and
//! puts the entries back after a reboot. Every block entry expires: nothing is dropped for ever.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::bpf::{
    LoadError,
    clock::JiffyClock,
    lists::{Lists, Which},
};

/// Where an entry in the kernel came from, as its `origin` number.
pub mod origin {
    /// An operator's command.
    pub const OPERATOR: u32 = 0;
    /// The configuration's `lists`. Feeds count from 2.
    pub const CONFIG: u32 = 1;
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Who: login name and uid of the caller.
    pub by: String,
    /// When it was made, seconds since the epoch.
    pub since_unix: u64,
    /// When it ends, seconds since the epoch; `None`: it does not (allow entries only).
    pub expires_unix: Option<u64>,
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Format of this file.
    version: u32,
    block: BTreeMap<IpNet, Record>,
    allow: BTreeMap<IpNet, Record>,
}

const VERSION: u32 = 1;

/// Why the store could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file could not be read or written.
    #[error("{}: {what}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not ours, or damaged. It was set aside, and what the kernel has of it was kept.
    #[error("{} is damaged and was set aside as {}: {problem}", path.display(), aside.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        aside: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// As above, but the disk does not let it be set aside; it is before anything is written in its place.
    #[error("{} is damaged, and cannot be set aside yet: {problem}", path.display())]
    Stuck {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] LoadError),
}

/// The store.
#[derive(Debug)]
pub struct Store {
    place: Place,
    saved: Saved,
    /// Why the file is behind what is in force.
    unsaved: Option<String>,
}

/// An entry as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The prefix.
    pub prefix: IpNet,
    /// What is known of it.
    #[serde(flatten)]
    pub record: Record,
    /// Seconds until it ends.
    pub remaining_s: Option<u64>,
    /// Seconds since it last matched a packet; `None`: never.
    pub last_match_s: Option<u64>,
}

impl Store {
    /// Reads the file in the state directory. A damaged one is set aside: the store is then
    /// empty, and the second value says what happened.
    ///
    /// # Errors
    /// Where the file exists and cannot be read.
    pub fn open(state: &Path) -> Result<(Self, Option<StoreError>), StoreError> {
        let (place, saved, damage) = Place::read(state.join("lists.json"), VERSION, |saved: &Saved| saved.version)?;
        let saved = saved.unwrap_or(Saved { version: VERSION, ..Saved::default() });
        Ok((Self { place, saved, unsaved: None }, damage))
    }

    fn list(&mut self, which: Which) -> &mut BTreeMap<IpNet, Record> {
        match which {
            Which::Block => &mut self.saved.block,
            Which::Allow => &mut self.saved.allow,
        }
    }

    /// Brings the kernel's lists in line with the store: puts entries in that have not expired,
    /// and adopts entries that only the kernel knows. Returns how many of each.
    ///
    /// # Errors
    /// Where the kernel refuses. For the file see [`Self::unsaved`].
    pub fn reconcile(&mut self, lists: &mut Lists, clock: &JiffyClock) -> Result<(usize, usize), StoreError> {
        let now = unix(SystemTime::now());
        let (mut restored, mut adopted) = (0, 0);
        for which in [Which::Block, Which::Allow] {
            self.list(which).retain(|_, record| record.expires_unix.is_none_or(|expires| expires > now));
            for (net, entry) in lists.entries(which)? {
                let left = clock.until(entry.expires);
                if left.is_zero() {
                    lists.remove(which, net)?;
                    continue;
                }
                let known = self.list(which);
                if entry.origin == origin::OPERATOR && !known.contains_key(&net) {
                    let expires_unix = (entry.expires != u64::MAX).then(|| now + left.as_secs());
                    let reason = "found in the kernel; its record is lost".to_owned();
                    known.insert(net, Record { reason, by: String::new(), since_unix: now, expires_unix });
                    // A daemon that died in the middle left the entry, but nothing that points at it.
                    lists.insert(which, net, entry.expires, entry.origin)?;
                    adopted += 1;
                }
            }
            for (net, record) in self.list(which).clone() {
                restored += usize::from(restore(lists, clock, which, net, &record)?);
            }
        }
        self.keep();
        Ok((restored, adopted))
    }

    /// Adds or replaces an entry, in the kernel first.
    ///
    /// # Errors
    /// Where the kernel refuses. For the file see [`Self::unsaved`].
    pub fn add(
        &mut self,
        lists: &mut Lists,
        clock: &JiffyClock,
        which: Which,
        net: IpNet,
        lasts: Option<Duration>,
        (reason, by): (String, String),
    ) -> Result<Record, StoreError> {
        let now = unix(SystemTime::now());
        let expires = lasts.map_or(u64::MAX, |lasts| clock.after(lasts));
        lists.insert(which, net, expires, origin::OPERATOR)?;
        let expires_unix = lasts.map(|lasts| now + lasts.as_secs().max(1));
        let record = Record { reason, by, since_unix: now, expires_unix };
        self.list(which).insert(net, record.clone());
        self.keep();
        Ok(record)
    }

    /// Puts the entry for exactly this prefix back into the kernel, where there is one that the kernel does not have:
    /// the configuration's stood in its place, and went.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn restore(&self, lists: &mut Lists, clock: &JiffyClock, which: Which, net: IpNet) -> Result<bool, StoreError> {
        let now = unix(SystemTime::now());
        let record = self.record(which, net).filter(|record| record.expires_unix.is_none_or(|expires| expires > now));
        record.map_or(Ok(false), |record| restore(lists, clock, which, net, record))
    }

    /// Removes an entry; returns whether there was one. An entry of the configuration is none.
    ///
    /// # Errors
    /// Where the kernel refuses. For the file see [`Self::unsaved`].
    pub fn remove(&mut self, lists: &mut Lists, which: Which, net: IpNet) -> Result<bool, StoreError> {
        let in_kernel = remove(lists, which, net)?;
        let in_store = self.list(which).remove(&net).is_some();
        if in_store {
            self.keep();
        }
        Ok(in_kernel || in_store)
    }

    /// Returns what is known of an entry.
    pub fn record(&self, which: Which, net: IpNet) -> Option<&Record> {
        match which {
            Which::Block => self.saved.block.get(&net),
            Which::Allow => self.saved.allow.get(&net),
        }
    }

    /// Returns the entries that cover an address or prefix without being it.
    pub fn covering(&self, which: Which, net: IpNet) -> Vec<IpNet> {
        let list = match which {
            Which::Block => &self.saved.block,
            Which::Allow => &self.saved.allow,
        };
        list.keys().filter(|known| **known != net && known.contains(&net)).copied().collect()
    }

    /// Forgets what has expired; returns how many entries that were.
    ///
    /// # Errors
    /// Where the kernel refuses. For the file see [`Self::unsaved`].
    pub fn sweep(&mut self, lists: &mut Lists) -> Result<usize, StoreError> {
        let now = unix(SystemTime::now());
        let mut swept = 0;
        for which in [Which::Block, Which::Allow] {
            let list = self.list(which);
            let over: Vec<IpNet> =
                list.iter().filter(|(_, r)| r.expires_unix.is_some_and(|e| e < now)).map(|(net, _)| *net).collect();
            for net in over {
                remove(lists, which, net)?;
                self.list(which).remove(&net);
                swept += 1;
            }
        }
        if swept > 0 || self.unsaved.is_some() {
            self.keep();
        }
        Ok(swept)
    }

    /// Returns the prefixes of a list.
    pub fn prefixes(&self, which: Which) -> impl Iterator<Item = IpNet> {
        match which {
            Which::Block => &self.saved.block,
            Which::Allow => &self.saved.allow,
        }
        .keys()
        .copied()
    }

    /// Returns how many entries a list has.
    pub fn len(&self, which: Which) -> usize {
        match which {
            Which::Block => self.saved.block.len(),
            Which::Allow => self.saved.allow.len(),
        }
    }

    /// Returns the entries of a list, with what the kernel knows of each.
    pub fn listed(&self, which: Which, lists: &Lists, clock: &JiffyClock) -> Vec<Listed> {
        let list = match which {
            Which::Block => &self.saved.block,
            Which::Allow => &self.saved.allow,
        };
        let now = clock.now();
        let listed = |(net, record): (&IpNet, &Record)| {
            let entry = lists.get(which, *net);
            let left = entry.filter(|e| e.expires != u64::MAX).map(|e| clock.until(e.expires).as_secs());
            // The low 32 bits of a jiffy: ages up to 2^32 ticks come out right.
            let last = entry.filter(|e| e.last_match != 0);
            let last_match_s = last.map(|e| u64::from((now as u32).wrapping_sub(e.last_match)) / clock.hz());
            Listed { prefix: *net, record: record.clone(), remaining_s: left, last_match_s }
        };
        list.iter().map(listed).collect()
    }

    /// Returns why the file is behind what is in force, if it is; every sweep tries again.
    pub fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }

    /// Writes the file. Where that fails (a full disk), what is in force stays in force: the
    /// kernel keeps it over a restart, and only a reboot would lose it.
    fn keep(&mut self) {
        let failed = self.place.write(&self.saved).err().map(|error| crate::chain(&error));
        if let Some(error) = failed.as_ref().filter(|_| self.unsaved.is_none()) {
            tracing::error!(%error, "The lists could not be saved; they stay in force until a reboot.");
        }
        self.unsaved = failed;
    }
}

/// Where a store is kept.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Where the file there has to go before another is written: it is damaged, and could not be moved yet.
    aside: Option<PathBuf>,
}

impl Place {
    /// Reads a store; `None` where there is none. A file that is damaged or of another version is set aside, and the
    /// third value says so.
    ///
    /// # Errors
    /// Where the file exists and cannot be read.
    pub(super) fn read<T: DeserializeOwned>(
        path: PathBuf,
        wanted: u32,
        version: impl Fn(&T) -> u32,
    ) -> Result<(Self, Option<T>, Option<StoreError>), StoreError> {
        let place = Self { path, aside: None };
        let text = match fs::read_to_string(&place.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((place, None, None)),
            Err(source) => return Err(StoreError::Io { what: "reading", path: place.path, source }),
        };
        let problem = match serde_json::from_str::<T>(&text) {
            Ok(saved) if version(&saved) == wanted => return Ok((place, Some(saved), None)),
            Ok(saved) => format!("its version is {}, wanted {wanted}", version(&saved)),
            Err(error) => error.to_string(),
        };
        let (path, aside) =
            (place.path.clone(), place.path.with_extension(format!("damaged-{}", unix(SystemTime::now()))));
        match fs::rename(&path, &aside) {
            Ok(()) => Ok((place, None, Some(StoreError::Damaged { path, aside, problem }))),
            Err(error) => {
                let problem = format!("{problem} ({error})");
                Ok((Self { aside: Some(aside), ..place }, None, Some(StoreError::Stuck { path, problem })))
            }
        }
    }

    /// Writes it: whoever reads it finds the old one or the new one.
    ///
    /// # Errors
    /// What the file system says; the old file is in place then.
    pub(super) fn write(&mut self, saved: &impl Serialize) -> Result<(), StoreError> {
        if let Some(aside) = &self.aside {
            let failed = |source| StoreError::Io { what: "setting aside", path: self.path.clone(), source };
            fs::rename(&self.path, aside).map_err(failed)?;
            self.aside = None;
        }
        write(&self.path, saved)
    }
}

fn write(path: &Path, saved: &impl Serialize) -> Result<(), StoreError> {
    let fail = |what| {
        let path = path.to_owned();
        move |source| StoreError::Io { what, path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(fail("making a temporary file beside it"))?;
    let text = serde_json::to_vec_pretty(saved).map_err(|e| fail("writing")(e.into()))?;
    io::Write::write_all(&mut file, &text).map_err(fail("writing"))?;
    file.as_file().sync_all().map_err(fail("writing"))?;
    file.persist(path).map_err(|error| fail("replacing")(error.error))?;
    Ok(())
}

/// Puts an operator's entry into the kernel where that has none for the prefix; returns whether it did.
fn restore(
    lists: &mut Lists,
    clock: &JiffyClock,
    which: Which,
    net: IpNet,
    record: &Record,
) -> Result<bool, StoreError> {
    if lists.get(which, net).is_some() {
        return Ok(false);
    }
    lists.insert(which, net, jiffy(record.expires_unix, unix(SystemTime::now()), clock), origin::OPERATOR)?;
    Ok(true)
}

/// Takes an operator's entry out of the kernel; returns whether it was there. The kernel has one entry for a prefix,
/// and where it is the configuration's it stays.
fn remove(lists: &mut Lists, which: Which, net: IpNet) -> Result<bool, StoreError> {
    let is_ours = lists.get(which, net).is_some_and(|entry| entry.origin == origin::OPERATOR);
    Ok(is_ours && lists.remove(which, net)?)
}

fn jiffy(expires_unix: Option<u64>, now_unix: u64, clock: &JiffyClock) -> u64 {
    expires_unix.map_or(u64::MAX, |expires| clock.after(Duration::from_secs(expires.saturating_sub(now_unix))))
}

/// Returns seconds since the epoch.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
