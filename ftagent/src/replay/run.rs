//! Drives the datapath through a timeline.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use ftagent_common::{abi::Sampling, class::CLASS_SLOTS};
use thiserror::Error;

use super::{
    capture::{Capture, CaptureError},
    gate::{self, Gate, Shown},
    mind::Mind,
    naming::Naming,
    output::PcapWriter,
    report::{self, Counts, IncidentReport, NoticeReport, Report, SourceReport},
    rules::Rules,
    scenario::{Scenario, ScenarioError, SourceSpec},
    schedule::SECOND,
    scribe::Scribe,
    timeline::{Direction, Event, Timeline},
    watch::{Answer, Fate, Seen},
};
use crate::{
    act::{store::origin, tripwire::TripwireDriver},
    bpf::{
        LoadError,
        lists::{FeedSet, Which},
        testrun::TestRun,
    },
    config::{Config, ConfigError, MitigationMode},
    decide::{
        Decider, Settings,
        mitigate::{Exempt, Mode},
    },
    feeds,
    rule::FlowMatch,
};

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Captures, each a source of its own with its own timing; without a scenario only.
    pub captures: Vec<PathBuf>,
    /// The scenario.
    pub scenario: Option<PathBuf>,
    /// A configuration; its keys win over those of the scenario's `[config]`.
    pub config: Option<PathBuf>,
    /// Rules of the operator, in force from the start: what they match is dropped.
    pub drop: Vec<FlowMatch>,
    /// Where packets that passed are written, as pcap.
    pub out_passed: Option<PathBuf>,
    /// Where packets that were dropped are written, as pcap.
    pub out_dropped: Option<PathBuf>,
    /// Where the replay is written down as a capsule; nothing may be there yet.
    pub capsule: Option<PathBuf>,
}

/// Why nothing was replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// Nothing was given, or both.
    #[error("give either captures or a scenario")]
    Input,
    /// A capture cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The scenario cannot be used.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A source asks for what its capture cannot give.
    #[error("source `{name}`: {what}")]
    Source {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The configuration cannot be read.
    #[error("{}: {what}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The configuration has values that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A block-list file of the configuration cannot be read.
    #[error("{}: cannot read the block list", path.display())]
    Feed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The datapath cannot be loaded or run.
    #[error("replay runs the real datapath and needs root, or CAP_BPF and CAP_NET_ADMIN")]
    Load(#[from] LoadError),
    /// A result would take the place of an input, or of the other result.
    #[error("{}: is an input or the other output of this replay; choose another file", path.display())]
    Overwrite {
        /// The file.
        path: PathBuf,
    },
    /// A result cannot be written.
    #[error("{}: cannot write", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program's counters are not those of what it was given: a defect of this program.
    #[error("the datapath counted {counted} packets of {given}")]
    Counters {
        /// By the counters.
        counted: u64,
        /// By the timeline.
        given: u64,
    },
}

/// Replays captures or a scenario. The calling thread stays on the CPU that it is on.
///
/// What is decided at the end of a tick is in force for the next packet.
///
/// # Errors
/// See [`ReplayError`]. Files to write are created only after all input was found good.
pub fn run(options: &Options) -> Result<Report, ReplayError> {
    run_watched(options, &mut |_| ())
}

/// As [`run()`]; `watch` is shown every packet that the program decided about, in order of time.
///
/// # Errors
/// As [`run()`].
pub fn run_watched(options: &Options, watch: &mut dyn FnMut(&Seen<'_>)) -> Result<Report, ReplayError> {
    let Inputs { sources, duration, seed, config } = inputs(options)?;
    refuse_overwriting(options, &sources)?;
    let own = own_addresses(&sources);
    let mut timeline = Timeline::new(seed);
    let mut run = Run::default();
    for spec in sources {
        let (name, label) = (spec.name.clone(), spec.label);
        let capture = Capture::load(&spec.file)?;
        let notes = timeline.add(spec, capture).map_err(|what| ReplayError::Source { name: name.clone(), what })?;
        run.notes.extend(notes);
        run.sources.push(SourceReport { name, label, counts: Counts::default(), first_drop_ms: None });
    }
    let mut datapath = TestRun::new(seed)?;
    let given = config.clone();
    let config = apply_config(config, &mut datapath)?;
    let trust_after_s = config.learning.trust_after.as_secs();
    let mut decider = Decider::new(Settings { trust_after_s, seed, mode: mode(config.mitigation.mode) });
    // Resolvers, gateways and management ports are a host's, and there is none.
    decider.set_exempt(Exempt { flows: Vec::new(), own: own.clone() });
    let rules = Rules::new(&options.drop, &mut datapath)?;
    let sees_outbound = timeline.has_outbound();
    let tripwire = TripwireDriver::new(datapath.open_tripwire()?);
    let sampling = (config.sampling.rate_pps, config.sampling.burst);
    let scribe = options.capsule.as_deref().map(|out| Scribe::begin(out, &decider, &given)).transpose()?;
    let mut mind = Mind::new(decider, rules, tripwire, sampling, sees_outbound);
    if sees_outbound && !own.is_empty() {
        mind.set_gate(Gate::new(&own, &datapath)?);
        let shown = |(source, at): (&SourceReport, usize)| match (timeline.is_answered(at), source.is_benign()) {
            (true, _) => Shown::Whole,
            (false, true) => Shown::Asked,
            (false, false) => Shown::Knocks,
        };
        run.shown = run.sources.iter().zip(0..).map(shown).collect();
    }
    if config.indicators.enabled {
        mind.set_naming(Naming::new());
    }
    scribe.into_iter().for_each(|scribe| mind.record(scribe));
    run.passed = Output::create(options.out_passed.as_deref())?;
    run.dropped = Output::create(options.out_dropped.as_deref())?;
    run.drive(&mut timeline, duration, &mut datapath, &mut mind, watch)?;
    if let Some(scribe) = mind.take_record() {
        scribe.finish(&mind.decider)?;
    }
    run.report(duration, &mut datapath, &mut mind)
}

/// Returns the addresses that a scenario sends traffic to: those of the protected side.
fn own_addresses(sources: &[SourceSpec]) -> Vec<IpAddr> {
    let nets = sources.iter().flat_map(|source| [source.rewrite.dst, source.rewrite.dst6]).flatten();
    let single = nets.filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr());
    single.collect::<BTreeSet<_>>().into_iter().collect()
}

fn mode(mode: MitigationMode) -> Mode {
    match mode {
        MitigationMode::Auto => Mode::Auto,
        MitigationMode::Observe => Mode::Observe,
        MitigationMode::Enforce => Mode::Enforce,
    }
}

/// Refuses outputs that are inputs or each other, through whatever links.
fn refuse_overwriting(options: &Options, sources: &[SourceSpec]) -> Result<(), ReplayError> {
    let outputs = [&options.out_passed, &options.out_dropped, &options.capsule].into_iter().flatten();
    let others = [&options.scenario, &options.config].into_iter().flatten();
    let mut taken: Vec<PathBuf> =
        sources.iter().map(|source| &source.file).chain(others).filter_map(|path| path.canonicalize().ok()).collect();
    for path in outputs {
        // A file that does not exist yet can only be the other output.
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if real != Path::new("/dev/null") && taken.contains(&real) {
            return Err(ReplayError::Overwrite { path: path.clone() });
        }
        taken.push(real);
    }
    Ok(())
}

struct Inputs {
    sources: Vec<SourceSpec>,
    /// Nanoseconds; `None`: until the last packet.
    duration: Option<u64>,
    seed: u64,
    config: toml::Table,
}

fn inputs(options: &Options) -> Result<Inputs, ReplayError> {
    let given = options.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
    let Some(scenario) = &options.scenario else {
        if options.captures.is_empty() {
            return Err(ReplayError::Input);
        }
        let plain = |path: &PathBuf| SourceSpec::plain(path.display().to_string(), path.clone());
        let sources = options.captures.iter().map(plain).collect();
        return Ok(Inputs { sources, duration: None, seed: 1, config: given });
    };
    if !options.captures.is_empty() {
        return Err(ReplayError::Input);
    }
    let Scenario { duration, seed, mut config, sources } = Scenario::load(scenario)?;
    overlay(&mut config, given);
    Ok(Inputs { sources, duration: Some(duration), seed, config })
}

fn read_config(path: &Path) -> Result<toml::Table, ReplayError> {
    let error = |what: String| ReplayError::ConfigFile { path: path.to_owned(), what };
    let text = std::fs::read_to_string(path).map_err(|e| error(format!("cannot read the configuration: {e}")))?;
    toml::from_str(&text).map_err(|e| error(e.to_string()))
}

/// Puts one table over another: tables merge, everything else is replaced.
fn overlay(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// Sets up the datapath as a configuration says. What only a daemon needs is checked and left alone:
/// interfaces, paths, metrics. Lists are not checked against this machine's own addresses.
///
/// # Errors
/// Where the configuration has values that cannot be used, or a block list cannot be read.
pub fn apply_config(mut config: toml::Table, run: &mut TestRun) -> Result<Config, ReplayError> {
    for (section, key, value) in DEFAULTS {
        let section = config.entry(section).or_insert_with(|| toml::Table::new().into());
        if let Some(section) = section.as_table_mut() {
            section.entry(key).or_insert_with(|| value.into());
        }
    }
    let config = Config::from_table(config)?;
    run.set_service_ports(&config.services.udp)?;
    run.set_sampling(Sampling { stride: [1; CLASS_SLOTS], burst: config.sampling.burst, _pad: 0 })?;
    for net in &config.lists.allow {
        run.lists.insert(Which::Allow, *net, u64::MAX, origin::CONFIG)?;
    }
    let mut blocked = FeedSet::default();
    config.lists.block.iter().for_each(|net| blocked.push(*net, origin::CONFIG));
    for (feed, number) in config.feeds.iter().zip(feeds::FIRST_ORIGIN..) {
        let error = |source| ReplayError::Feed { path: feed.path.clone(), source };
        let file = File::open(&feed.path).map_err(error)?;
        let (entries, _) = feeds::read(BufReader::new(file), None).map_err(error)?;
        entries.nets().for_each(|net| blocked.push(net, number));
    }
    run.lists.publish_feeds(blocked, u64::MAX)?;
    Ok(config)
}

/// A file that is written, where one was asked for.
struct Output {
    path: PathBuf,
    file: PcapWriter,
}

impl Output {
    fn create(path: Option<&Path>) -> Result<Option<Self>, ReplayError> {
        let Some(path) = path else { return Ok(None) };
        let file = PcapWriter::create(path).map_err(|source| ReplayError::Write { path: path.into(), source })?;
        Ok(Some(Self { path: path.into(), file }))
    }

    fn write(&mut self, time_ns: u64, frame: &[u8]) -> Result<(), ReplayError> {
        let written = self.file.write(time_ns, frame);
        written.map_err(|source| ReplayError::Write { path: self.path.clone(), source })
    }

    fn finish(self) -> Result<(), ReplayError> {
        self.file.finish().map_err(|source| ReplayError::Write { path: self.path, source })
    }
}

/// Answered SYNs that are kept until it is known what became of them.
const HELD: usize = 1 << 18;

/// Frames, each with its time, by number.
type Held = BTreeMap<u64, (u64, Vec<u8>)>;

fn write(output: &mut Option<Output>, time_ns: u64, frame: &[u8]) -> Result<(), ReplayError> {
    output.as_mut().map_or(Ok(()), |output| output.write(time_ns, frame))
}

/// A replay under way.
#[derive(Default)]
struct Run {
    sources: Vec<SourceReport>,
    /// What the capture of each source shows.
    shown: Vec<Shown>,
    notes: Vec<String>,
    passed: Option<Output>,
    dropped: Option<Output>,
    /// SYNs that were answered and may yet turn out to have been no attack, by number.
    held: Held,
    /// Time of the last packet, nanoseconds.
    last: u64,
    outbound: u64,
    wall_ms: u64,
}

impl Run {
    fn drive(
        &mut self,
        timeline: &mut Timeline,
        duration: Option<u64>,
        datapath: &mut TestRun,
        mind: &mut Mind,
        watch: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<(), ReplayError> {
        let begun = Instant::now();
        while let Some(event) = timeline.next() {
            self.last = event.time_ns;
            mind.advance(event.time_ns, datapath)?;
            match event.direction {
                Direction::Inbound => {
                    self.inbound(&event, datapath, mind, watch)?;
                    mind.inbound(event.time_ns, datapath);
                }
                Direction::Outbound => {
                    self.outbound += 1;
                    mind.outbound(&event);
                }
            }
        }
        mind.advance(duration.unwrap_or(self.last), datapath)?;
        for (time_ns, frame) in std::mem::take(&mut self.held).into_values() {
            write(&mut self.dropped, time_ns, &frame)?;
        }
        for output in [self.passed.take(), self.dropped.take()].into_iter().flatten() {
            output.finish()?;
        }
        self.wall_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn inbound(
        &mut self,
        event: &Event<'_>,
        datapath: &mut TestRun,
        mind: &mut Mind,
        watch: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<(), ReplayError> {
        datapath.set_time(event.time_ns);
        let shown = self.shown.get(event.source).copied().unwrap_or_default();
        let fate = mind.run(event, shown, datapath)?;
        if let Some(source) = self.sources.get_mut(event.source) {
            let (counts, bytes) = (&mut source.counts, event.frame.len() as u64);
            counts.packets += 1;
            counts.bytes += bytes;
            if matches!(fate, Fate::Dropped | Fate::Answered(_)) {
                counts.dropped_packets += 1;
                counts.dropped_bytes += bytes;
                source.first_drop_ms.get_or_insert(event.time_ns / MILLISECOND);
            }
            counts.answered_packets += u64::from(matches!(fate, Fate::Answered(_)));
            watch(&Seen { time_ns: event.time_ns, label: source.label, frame: event.frame, fate });
        }
        if let Fate::Returned(answer) = fate {
            self.returned(answer)?;
        }
        match fate {
            Fate::Answered(answer) if self.passed.is_some() || self.dropped.is_some() => {
                self.held.insert(answer.number, (event.time_ns, event.frame.to_vec()));
                // Nobody comes back that late.
                let oldest = if self.held.len() > HELD { self.held.pop_first() } else { None };
                oldest.map_or(Ok(()), |(_, (time_ns, frame))| write(&mut self.dropped, time_ns, &frame))
            }
            Fate::Answered(_) => Ok(()),
            Fate::Dropped => write(&mut self.dropped, event.time_ns, event.frame),
            Fate::Passed | Fate::Returned(_) => write(&mut self.passed, event.time_ns, event.frame),
        }
    }

    /// Takes in that an answered SYN's sender came back: he has lost nothing.
    fn returned(&mut self, answer: Answer) -> Result<(), ReplayError> {
        if let Some(source) = self.sources.get_mut(answer.source) {
            source.counts.dropped_packets -= 1;
            source.counts.dropped_bytes -= answer.bytes;
            source.counts.answered_packets -= 1;
        }
        let Some((time_ns, frame)) = self.held.remove(&answer.number) else { return Ok(()) };
        write(&mut self.passed, time_ns, &frame)
    }

    fn report(mut self, duration: Option<u64>, datapath: &mut TestRun, mind: &mut Mind) -> Result<Report, ReplayError> {
        // What the rules did since the last tick.
        mind.rules.counts()?;
        for source in self.sources.iter_mut().filter(|source| source.counts.dropped_packets == 0) {
            // Answered SYNs at most, all of which came back.
            source.first_drop_ms = None;
        }
        let counters = datapath.counters()?;
        let sum = |field: fn(&Counts) -> u64| self.sources.iter().map(|source| field(&source.counts)).sum::<u64>();
        let (packets, bytes) = (sum(|counts| counts.packets), sum(|counts| counts.bytes));
        if counters.seen() != packets {
            return Err(ReplayError::Counters { counted: counters.seen(), given: packets });
        }
        if self.outbound > 0 {
            self.notes
                .push(format!("{} packets from the victim are evidence: the program did not see them", self.outbound));
        }
        self.notes.push(if mind.gate().is_some() {
            gate::explained()
        } else {
            "there is no socket table in virtual time: what depends on it is decided as if unknown".into()
        });
        self.notes.extend(mind.rules.problems());
        Ok(Report {
            schema: report::SCHEMA,
            duration_ms: duration.unwrap_or(self.last) / MILLISECOND,
            packets,
            bytes,
            wall_ms: self.wall_ms,
            classes: report::classes(&counters),
            sources: self.sources,
            incidents: mind.decider.incidents().map(IncidentReport::from).collect(),
            rules: mind.rules.given().collect(),
            notices: notices(mind),
            notes: self.notes,
        })
    }
}

/// Returns what is worth knowing, in order of time.
fn notices(mind: &Mind) -> Vec<NoticeReport> {
    let mut notices: Vec<_> = mind.decider.notices().map(NoticeReport::from).collect();
    notices.extend(mind.gate().into_iter().flat_map(Gate::armed).cloned());
    notices.sort_by_key(|notice| notice.at_ms);
    notices
}

/// Section, key and value of what a replay does unless the configuration says otherwise: it trusts what
/// it has learned after 30 s of data, and acts at once.
const DEFAULTS: [(&str, &str, &str); 2] = [("learning", "trust_after", "30s"), ("mitigation", "mode", "enforce")];
/// Nanoseconds in a millisecond.
const MILLISECOND: u64 = SECOND / 1000;
