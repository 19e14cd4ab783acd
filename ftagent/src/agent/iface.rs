//! The interfaces that one daemon protects: slots, attachment, probation, and coming back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use aya::Ebpf;
use ftagent_common::{
    abi::{features, programs},
    counters::IfaceCounters,
};
use tracing::{error, info, warn};

use crate::{
    act::store::unix,
    bpf::{
        LoadError, Loader,
        attach::{self, AttachError, Mode, Outcome},
        base,
        load::program,
        pins::Pins,
    },
};

/// One configured interface.
pub struct Iface {
    /// Its name.
    pub name: String,
    /// Its slot in the counters.
    pub slot: u32,
    /// How the program is to run.
    pub mode: Mode,
    /// What it is doing.
    pub state: State,
    /// The object: its program stays loaded, so that coming back needs no capability to load.
    pub ebpf: Ebpf,
    /// What counters of older layouts had reached.
    pub base: Box<IfaceCounters>,
}

/// What an interface is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not attached yet.
    New,
    /// The program is attached.
    Protected {
        /// The interface index.
        ifindex: u32,
    },
    /// The program is attached, and has to prove that packets still arrive.
    Probation {
        /// The interface index.
        ifindex: u32,
        /// Packets seen when it was attached.
        seen: u64,
        /// When it was attached.
        since: Instant,
    },
    /// There is no interface of that name now.
    Absent,
    /// Not attached, and not before `retry`.
    Detached {
        /// Why.
        reason: String,
        /// When to try again.
        retry: Instant,
    },
}

impl Iface {
    /// Loads the datapath for an interface with pinned maps. Nothing is attached.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(name: &str, slot: u32, mode: Mode, pins: &Pins) -> Result<Self, LoadError> {
        let dir = pins.maps();
        let ebpf = Loader { slot, replay: false, features: features::ALL, pins: Some(&dir) }.load()?;
        let base = Box::new(base::of_interface(pins, name));
        Ok(Self { name: name.to_owned(), slot, mode, state: State::New, ebpf, base })
    }

    /// Returns the interface index while the program is attached.
    pub fn attached(&self) -> Option<u32> {
        match self.state {
            State::Protected { ifindex } | State::Probation { ifindex, .. } => Some(ifindex),
            _ => None,
        }
    }

    /// Attaches, or takes an attachment over. A fresh attachment begins on probation where
    /// packets arrived before and probation is on.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&mut self, pins: &Pins, probation: bool, seen: u64) -> Result<Outcome, AttachError> {
        let ifindex = attach::ifindex(&self.name).ok_or_else(|| AttachError::NoInterface(self.name.clone()))?;
        // Taking over changes nothing for the card, so there is nothing to prove.
        let busy = probation && !pins.link(ifindex).exists() && receives(&self.name);
        let failed = |source: LoadError| AttachError::Kernel {
            name: self.name.clone(),
            what: "opening the program",
            source: Box::new(source),
        };
        let xdp = program(&mut self.ebpf, programs::DATAPATH).map_err(failed)?;
        let outcome = attach::attach(xdp, &self.name, ifindex, self.mode, &pins.link(ifindex))?;
        self.state = match outcome {
            Outcome::Fresh if busy => State::Probation { ifindex, seen, since: Instant::now() },
            _ => State::Protected { ifindex },
        };
        info!(interface = %self.name, slot = self.slot, mode = self.mode.as_str(), ?outcome, "The datapath is attached.");
        Ok(outcome)
    }

    /// Detaches by removing the pin; the program stays loaded.
    ///
    /// # Errors
    /// What the file system says.
    pub fn detach(&mut self, pins: &Pins) -> io::Result<()> {
        match self.attached() {
            Some(ifindex) => fs::remove_file(pins.link(ifindex)),
            None => Ok(()),
        }
    }
}

/// How long the interface is watched before a fresh attachment.
const WATCH: Duration = Duration::from_millis(500);

/// Returns whether packets arrive at an interface now.
fn receives(name: &str) -> bool {
    let before = rx_packets(name);
    std::thread::sleep(WATCH);
    rx_packets(name) > before
}

/// Returns the packets an interface has received, by its driver's count.
fn rx_packets(name: &str) -> u64 {
    let path = format!("/sys/class/net/{name}/statistics/rx_packets");
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// How often an interface may fail probation in an hour before it is left alone.
const MAX_FAILURES: usize = 3;
/// The hour that failures are counted in.
const HOUR: Duration = Duration::from_secs(3600);

/// The failures of the last hour, kept on disk so that a restart does not forget them.
#[derive(Debug)]
pub struct Failures {
    path: PathBuf,
    /// Seconds since the epoch, by interface.
    at: BTreeMap<String, Vec<u64>>,
}

impl Failures {
    /// Reads the failures in the state directory; none where there is no readable file.
    pub fn open(state: &Path) -> Self {
        let path = state.join("probation.json");
        let at = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, at }
    }

    /// Notes a failure and returns how long to wait before the next try: half a minute, then two
    /// minutes, then until the hour is over.
    pub fn note(&mut self, name: &str) -> Duration {
        let now = unix(SystemTime::now());
        let recent = self.at.entry(name.to_owned()).or_default();
        recent.push(now);
        recent.retain(|at| now.saturating_sub(*at) < HOUR.as_secs());
        let wait = match recent.len() {
            1 => Duration::from_secs(30),
            2 => Duration::from_secs(120),
            _ => self.wait(name).unwrap_or(HOUR),
        };
        let saved =
            serde_json::to_vec(&self.at).map_err(io::Error::from).and_then(|bytes| fs::write(&self.path, bytes));
        if let Err(error) = saved {
            warn!(%error, path = %self.path.display(), "The failed probation could not be recorded.");
        }
        wait
    }

    /// Returns how long an interface has to be left alone, if it failed too often.
    pub fn wait(&self, name: &str) -> Option<Duration> {
        let now = unix(SystemTime::now());
        let recent: Vec<_> = self.at.get(name)?.iter().filter(|at| now.saturating_sub(**at) < HOUR.as_secs()).collect();
        let oldest = recent.get(recent.len().checked_sub(MAX_FAILURES)?)?;
        Some(Duration::from_secs((*oldest + HOUR.as_secs()).saturating_sub(now)))
    }
}

/// Judges an interface once a second: probation, vanished and returned interfaces.
pub fn watch(iface: &mut Iface, pins: &Pins, failures: &mut Failures, window: Option<Duration>, seen: u64) {
    match iface.state.clone() {
        State::Probation { ifindex, seen: before, since } => {
            if seen > before {
                info!(interface = %iface.name, "Packets arrive through the datapath: probation is over.");
                iface.state = State::Protected { ifindex };
            } else if since.elapsed() > window.unwrap_or(Duration::MAX) {
                fail_probation(iface, pins, failures);
            }
        }
        State::Protected { ifindex } => {
            // A look that fails (no descriptor left, say) must not take the attachment off.
            if matches!(attach::is_attached(&pins.link(ifindex), ifindex), Ok(false)) {
                warn!(interface = %iface.name, "The interface is gone, or its attachment was removed.");
                // A link whose interface is gone keeps its pin, but nothing is attached by it.
                let _gone: io::Result<()> = fs::remove_file(pins.link(ifindex));
                iface.state = State::Absent;
            }
        }
        State::Absent | State::New => {
            if attach::ifindex(&iface.name).is_some() {
                try_again(iface, pins, failures, window, seen);
            }
        }
        State::Detached { retry, .. } => {
            if Instant::now() >= retry {
                try_again(iface, pins, failures, window, seen);
            }
        }
    }
}

fn fail_probation(iface: &mut Iface, pins: &Pins, failures: &mut Failures) {
    let wait = failures.note(&iface.name);
    let reason = format!("no packet arrived after attaching, though some did before; next try in {} s", wait.as_secs());
    match iface.detach(pins) {
        Ok(()) => error!(interface = %iface.name, %reason, "Detached: the interface failed its probation."),
        Err(error) => error!(interface = %iface.name, %error, "Detaching after a failed probation failed."),
    }
    iface.state = State::Detached { reason, retry: Instant::now() + wait };
}

fn try_again(iface: &mut Iface, pins: &Pins, failures: &Failures, window: Option<Duration>, seen: u64) {
    if let Some(wait) = failures.wait(&iface.name).filter(|wait| !wait.is_zero()) {
        let reason = format!("it failed probation {MAX_FAILURES} times within an hour");
        iface.state = State::Detached { reason, retry: Instant::now() + wait };
        return;
    }
    if let Err(error) = iface.attach(pins, window.is_some(), seen) {
        let reason = crate::chain(&error);
        warn!(interface = %iface.name, %reason, "Attaching failed; it is tried again every 10 s.");
        iface.state = State::Detached { reason, retry: Instant::now() + Duration::from_secs(10) };
    }
}
