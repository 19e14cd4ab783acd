//! Captures: the recorder's place in the daemon, and what operators ask of it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tracing::warn;

use super::{Agent, brain::Brain, mitigator::Failure};
use crate::{
    bpf::captures::CaptureRing,
    config::Config,
    record::{
        audit::diff::masked,
        capsule::journal::Chronicler,
        ioc::{Collector, Shelf, Teller},
        recorder::{
            self, Companion, Companions, Manual,
            meta::Status,
            status::CaptureStatus,
            store::{self, Opened},
        },
        remote::Remote,
        tape,
    },
    rule::FlowMatch,
    sense::clock,
    serve::{control::Caller, protocol::CaptureStart},
};

/// Bytes of samples that wait for the recorder at most: several seconds of a flood.
const WAITING: usize = 16 << 20;
/// How long a capture of an operator lasts where nothing is said, and at most.
const LASTS: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(86_400);
/// The least that a capture may be bounded to.
const LEAST_BYTES: u64 = 64 << 10;

impl Agent {
    /// Starts the recorder, where there is to be one; it is fed from now on.
    pub(super) fn start_recorder(&mut self) -> Result<()> {
        if !self.config.capture.enabled {
            return Ok(());
        }
        let (tape, reader) = tape::tape(WAITING);
        let first = self.ifaces.first().context("no interface is configured")?;
        let ring = CaptureRing::open(&first.ebpf).context("opening the ring of captured packets")?;
        let (state, settings) = (&self.config.paths.state, self.config.capture);
        let companions = companions(&self.config, &self.brain, self.written.clone());
        let log = self.audit.clone();
        let started = recorder::spawn(state, settings, (reader, Some(ring)), companions, log);
        self.recorder = Some(started.context("starting the recorder")?);
        self.brain.set_tape(tape);
        if let Some(settings) = self.config.remote.clone() {
            let root = store::root(&self.config.paths.state);
            let started = Remote::spawn(settings, root, Box::new(is_over), self.audit.clone());
            self.remote = Some(started.context("starting to copy captures")?);
        }
        Ok(())
    }

    pub(super) fn capture_status(&self) -> Option<CaptureStatus> {
        self.recorder.as_ref().map(recorder::Handle::status)
    }

    /// Returns why copies are not made, where they are to be.
    pub(super) fn remote_trouble(&self) -> Option<String> {
        let status = self.remote.as_ref()?.status();
        let trouble = status.trouble?;
        Some(format!("{} captures wait to be copied to `remote.endpoint`: {trouble}", status.waiting))
    }

    pub(super) fn start_capture(&mut self, asked: CaptureStart, caller: &Caller) -> Result<Value> {
        let CaptureStart { matches, for_s, bytes, full } = asked;
        let recorder = self.recorder.clone().context("nothing is recorded here: `capture.enabled` is false")?;
        let lasts = for_s.map_or(LASTS, Duration::from_secs);
        if lasts.is_zero() || lasts > LONGEST {
            bail!("a capture lasts between 1s and {}", humantime::format_duration(LONGEST));
        }
        let most_bytes = bytes.unwrap_or(self.config.capture.incident_bytes);
        if !(LEAST_BYTES..=self.config.capture.keep_bytes).contains(&most_bytes) {
            bail!("a capture takes between 64 KiB and {} bytes (`capture.keep_bytes`)", self.config.capture.keep_bytes);
        }
        let id = self.free_name();
        let text = matches.to_string();
        let by = caller.name.clone();
        let manual = Manual { id: id.clone(), matches: matches.clone(), by, lasts, most_bytes, full };
        recorder.start(manual).map_err(anyhow::Error::msg)?;
        if full {
            let lasts_ns = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
            let number = self.whole.iter().map(|whole| whole.number + 1).max().unwrap_or(0);
            self.whole.push(Whole { id: id.clone(), number, matches, ends_ns: clock::monotonic_ns() + lasts_ns });
            if let Err(failures) = self.push_captures() {
                self.whole.retain(|whole| whole.id != id);
                let _goes_with_its_rule = self.push_captures();
                let _has_nothing_in_it = recorder.stop(&id);
                let why: Vec<String> = failures.into_iter().map(|failure| failure.what).collect();
                bail!("the kernel cannot capture this: {}", why.join("; "));
            }
        }
        Ok(json!({ "name": id, "match": text, "for_s": lasts.as_secs(), "bytes": most_bytes, "full": full }))
    }

    /// Has the kernel capture what is wanted whole, and no more.
    fn push_captures(&self) -> Result<(), Vec<Failure>> {
        let captures = self.whole.iter().map(|whole| (whole.number, whole.matches.clone(), whole.ends_ns));
        self.brain.set_captures(captures.collect())
    }

    /// Has the kernel capture no more what nobody records any more.
    pub(super) fn end_captures(&mut self) {
        if self.whole.is_empty() {
            return;
        }
        let running = self.capture_status().unwrap_or_default().recordings;
        let before = self.whole.len();
        self.whole.retain(|whole| running.iter().any(|recording| recording.id == whole.id));
        if self.whole.len() != before
            && let Err(failures) = self.push_captures()
        {
            warn!(?failures, "What is captured in the kernel could not be changed; it ends by itself.");
        }
    }

    pub(super) fn stop_capture(&mut self, name: Option<&str>) -> Result<Value> {
        let recorder = self.recorder.clone().context("nothing is recorded here: `capture.enabled` is false")?;
        let id = recorder.manual(name).map_err(anyhow::Error::msg)?;
        if self.whole.iter().any(|whole| whole.id == id) {
            self.whole.retain(|whole| whole.id != id);
            if let Err(failures) = self.push_captures() {
                warn!(?failures, "What is captured in the kernel could not be changed; it ends by itself.");
            }
        }
        recorder.stop(&id).map_err(anyhow::Error::msg)?;
        Ok(json!({ "name": id }))
    }

    /// Returns a name that no capture has: `manual-20260801T120000Z`.
    fn free_name(&self) -> String {
        let second = u64::try_from(clock::unix_ms() / 1000).unwrap_or(0);
        let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let plain = humantime::format_rfc3339_seconds(at).to_string().replace(['-', ':'], "");
        let status = self.capture_status().unwrap_or_default();
        let root = store::root(&self.config.paths.state);
        let taken = |id: &str| root.join(id).exists() || status.recordings.iter().any(|recording| recording.id == id);
        let first = format!("manual-{plain}");
        let others = (2..100).map(|number| format!("{first}-{number}"));
        std::iter::once(first.clone()).chain(others).find(|id| !taken(id)).unwrap_or(first)
    }
}

/// A capture of whole packets.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    id: String,
    /// Its number in the kernel.
    number: u32,
    matches: FlowMatch,
    /// When it ends by itself, monotonic nanoseconds.
    ends_ns: u64,
}

/// Returns whether a capture is complete, and no more will be written to it.
fn is_over(dir: &Path) -> bool {
    let (root, id) = (dir.parent().unwrap_or(dir), dir.file_name().unwrap_or_default().to_string_lossy());
    let meta = Opened::new(root, &id).and_then(|opened| opened.meta());
    meta.is_ok_and(|meta| meta.status != Status::Open)
}

/// The configuration in force, as capsules have it: without secrets. A reload replaces it for everybody who holds one.
#[derive(Clone, Debug)]
pub(super) struct Written(Arc<Mutex<Value>>);

impl Written {
    /// Begins with what the daemon was started with.
    pub(super) fn new(config: &Config) -> Self {
        Self(Arc::new(Mutex::new(masked_of(config))))
    }

    /// Takes a reload; `waiting` are the sections that need a restart, and are in force as they were.
    pub(super) fn reload(&self, config: &Config, waiting: &[&str]) {
        let mut now = masked_of(config);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for section in waiting {
            let place = format!("/{}", section.replace('.', "/"));
            if let (Some(now), Some(known)) = (now.pointer_mut(&place), known.pointer(&place)) {
                now.clone_from(known);
            }
        }
        *known = now;
    }

    /// Returns it as TOML.
    fn text(&self) -> String {
        toml::to_string(&*self.0.lock().unwrap_or_else(PoisonError::into_inner)).unwrap_or_default()
    }
}

fn masked_of(config: &Config) -> Value {
    serde_json::to_value(&config.written).map(|written| masked(&written)).unwrap_or_default()
}

/// Makes what makes whatever else is kept of an incident.
fn companions(config: &Config, brain: &Brain, written: Written) -> Companions {
    let brain = brain.clone();
    let teller: Teller = Arc::new(move |input| brain.name_tool(input));
    let (journal_bytes, collects) = (config.capture.journal_bytes, config.indicators.enabled);
    let shelf = collects.then(|| Shelf::open(&config.indicators.paths));
    Box::new(move || {
        let mut all: Vec<Box<dyn Companion>> = Vec::new();
        if journal_bytes > 0 {
            all.push(Box::new(Chronicler::new(journal_bytes, written.text())));
        }
        if let Some(shelf) = &shelf {
            all.push(Box::new(Collector::new(shelf.library(), Arc::clone(&teller))));
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_capsule_says_of_the_configuration_is_what_is_in_force_when_it_begins() {
        let parse = |text: &str| Config::parse(text, "t.toml").unwrap();
        let written = Written::new(&parse("[block]\nmax_duration = \"2h\"\n[mitigation]\nplane = \"xdp\""));
        let held = written.clone();
        let new = "[block]\nmax_duration = \"3h\"\n[mitigation]\nplane = \"nftables\"\nmode = \"observe\"\n\
                   [capture]\nkeep_days = 7\n";
        written.reload(&parse(new), &["capture", "mitigation.plane"]);
        let text = held.text();
        for part in ["max_duration = \"3h\"", "mode = \"observe\"", "plane = \"xdp\"", "keep_days = 365"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        Config::parse(&text, "config.toml").unwrap();
    }
}
