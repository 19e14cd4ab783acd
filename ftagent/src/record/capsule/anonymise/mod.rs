//! Makes a capsule in which nobody can be recognised: addresses changed, payload cut, and everything that rests on
//! them decided anew.
//!
//! A core knows addresses by keyed hashes, and those cannot be changed. So what is exported begins from a core
//! without them ([`Decider::disguised`]), goes through the changed packets, and holds the decisions of *that* run.
//! It replays to them byte for byte; the manifest names the incidents of both runs.

mod address;
mod frame;

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use ftagent_common::sample::{SAMPLE_BYTES, SampleRecord};

pub use address::Scrambler;
pub use frame::{Cut, cut};

use super::{
    container::{self, Source},
    export::line,
    journal::Journal,
    manifest::{Anonymised, Manifest},
    member,
    reader::{Ended, Journey, Step},
    rerun::Rerun,
    state,
};
use crate::{
    decide::{Decider, Event, Incident, input::Input},
    record::tape::{Decided, Fact, TickRecord},
    sense::signals::{HostSignals, address_of, block_of},
};

/// What the manifest says of it.
const ADDRESSES: &str = "prefix-preserving (as Crypto-PAn, with SHA-256) under a key that was thrown away; \
    private, shared and link-local prefixes stay what they are, multicast and loopback addresses are unchanged; \
    hardware addresses are constants";
const PAYLOAD: &str = "cut behind the transport header; options of IP and TCP and checksums are blank";
const DECISIONS: &str = "decided anew from the changed packets, beginning without what a core knows by address: \
    known sources, conversations, earlier incidents";
const LEFT_OUT: &str = "left out because they name people or hold payload: config.toml, capture.pcapng.zst, \
    indicators.json, the texts of rules in the kernel";

/// Makes the capsule. The journal of the incident is `ticks`, its state lies in `dir`.
///
/// # Errors
/// What is wrong, in words.
pub fn export(dir: &Path, ticks: File, out: &Path, mut manifest: Manifest) -> Result<Manifest, String> {
    let words = |error: io::Error| error.to_string();
    let mut scrambler = Scrambler::new(getrandom::u64().map_err(|error| error.to_string())?, &key()?);
    let state = File::open(dir.join(member::STATE)).map_err(|error| format!("{}: {error}", member::STATE))?;
    let core = state::decode(BufReader::new(state)).map_err(|error| format!("cannot be made anonymous: {error}"))?;
    let core = scrambler.core(&core);
    let desk = tempfile::tempdir().map_err(words)?;
    let mut journal = Journal::begin(desk.path(), &core, u64::MAX).map_err(words)?;
    let mut journey = Journey::new(BufReader::with_capacity(1 << 17, ticks))?;
    let mut rerun = Rerun::new(core);
    let (mut then, mut decisions, mut number) = (Vec::new(), Vec::new(), 0);
    while let Some(step) = journey.step()? {
        match step {
            // What the core was after a gap cannot be told: it goes on with what it has.
            Step::Missed(_) => manifest.notes.push(format!("facts had been lost before tick {}", number + 1)),
            Step::Input(input) => {
                let input = scrambler.input(*input);
                rerun.core.put(input.clone());
                journal.take(&Fact::Input(Box::new(input))).map_err(words)?;
            }
            Step::Tick(tick) => {
                number += 1;
                then.extend(opened(&tick.events, &tick.incidents));
                let mut tick = scrambler.tick(*tick);
                let decided = rerun.tick(&tick);
                line(number, tick.now, &decided, &mut decisions).map_err(words)?;
                let Decided { events, incidents, wanted } = decided;
                (tick.events, tick.incidents, tick.wanted) = (events, incidents, wanted);
                journal.take(&Fact::Tick(Box::new(tick))).map_err(words)?;
            }
        }
    }
    journal.finish().map_err(words)?;
    if let Ended::Early(what) | Ended::Broken(what) = journey.ended() {
        manifest.notes.push(format!("the journal ended before its incident: {what}"));
    }
    manifest.notes.push(LEFT_OUT.to_owned());
    let now: Vec<&Incident> = rerun.core.incidents().collect();
    manifest.anonymised = Some(Anonymised {
        addresses: ADDRESSES.to_owned(),
        payload: PAYLOAD.to_owned(),
        decisions: DECISIONS.to_owned(),
        incidents_then: then,
        incidents_now: now.iter().map(|incident| incident.vector.as_str().to_owned()).collect(),
    });
    let mut sources = vec![(member::DECISIONS, Source::Bytes(decisions))];
    if let Some(incident) = now.first() {
        let text = serde_json::to_vec_pretty(incident).map_err(|error| error.to_string())?;
        sources.push((member::INCIDENT, Source::Bytes(text)));
    }
    for name in [member::BASELINE, member::STATE, member::TICKS] {
        sources.push((name, Source::File(desk.path().join(name))));
    }
    container::write(out, manifest, &sources).map_err(|error| format!("{}: {error}", out.display()))
}

fn key() -> Result<[u8; 32], String> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| format!("there is no randomness to be had: {error}"))?;
    Ok(key)
}

/// The vectors of the incidents that opened in a tick.
fn opened(events: &[Event], incidents: &[Incident]) -> Vec<String> {
    let is_opened =
        |incident: &&Incident| events.iter().any(|event| matches!(event, Event::Opened { id } if *id == incident.id));
    incidents.iter().filter(is_opened).map(|incident| incident.vector.as_str().to_owned()).collect()
}

impl Scrambler {
    fn core(&mut self, core: &Decider) -> Decider {
        core.disguised(self.seed(), &mut |address| self.change(address))
    }

    fn input(&mut self, input: Input) -> Input {
        input.disguised(&mut |address| self.change(address))
    }

    /// Changes what a tick says of addresses, and cuts payload. What rules did is known of those that there were,
    /// and others may be decided on: samples tell of them.
    fn tick(&mut self, mut tick: TickRecord) -> TickRecord {
        tick.samples.iter_mut().for_each(|record| self.sample(record));
        for packet in tick.outbound.iter_mut().flatten() {
            *packet = packet.disguised(&mut |address| self.change(address));
        }
        tick.host = tick.host.map(|host| self.host(host));
        (tick.rules, tick.slots) = (Vec::new(), None);
        tick
    }

    fn sample(&mut self, record: &mut SampleRecord) {
        let captured = usize::from(record.header.captured).min(SAMPLE_BYTES);
        let Some(frame) = record.data.get_mut(..captured) else { return };
        let Cut { kept } = cut(frame, &mut |address| self.change(address));
        record.header.captured = kept as u16;
    }

    fn host(&mut self, mut host: HostSignals) -> HostSignals {
        for block in host.peers.iter_mut().flatten() {
            *block = block_of(self.change(address_of(*block)));
        }
        host
    }
}
