//! Incidents from the tape to the file, with virtual time.

mod removal;

use std::{collections::BTreeMap, fs, net::Ipv4Addr, sync::mpsc};

use ftagent_common::{
    DropReason, TrafficClass,
    reason::verdict,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
};

use super::{
    frames::survey,
    meta::{CAPTURE, FileFacts, Kind, META},
    store::Opened,
    *,
};
use crate::{
    config::Config,
    decide::{ClassCount, Decider, Event, Now, Packet, Settings, Severity, Vector, mitigate::Mode},
    record::tape::{IfaceSeen, SlotRule, TickRecord},
};

/// 2026-08-01, 12:00 UTC.
const EPOCH_MS: i64 = 1_785_585_600_000;
const TICK_NS: u64 = 100_000_000;

/// A sample of a frame that passed.
pub(crate) fn sample(time_ns: u64, frame: &[u8]) -> SampleRecord {
    let packet = Packet::decode(time_ns, frame, frame.len(), None, false);
    let mut data = [0; SAMPLE_BYTES];
    data.iter_mut().zip(frame).for_each(|(to, byte)| *to = *byte);
    let header = SampleHeader {
        time_ns,
        wire_bytes: frame.len() as u32,
        stride: 1,
        captured: frame.len().min(SAMPLE_BYTES) as u16,
        slot: 0,
        class: packet.class as u8,
        verdict: verdict::PASS as u8,
        reason: SampleHeader::NO_REASON,
        socket: 0,
        rule: 0,
        cpu: 1,
        flags: 0,
    };
    SampleRecord { header, data }
}

/// A UDP packet to the protected host.
pub(crate) fn udp(src: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 57, 17, 0, 0]);
    frame.extend(src.octets());
    frame.extend([198, 51, 100, 10]);
    frame.extend([ports.0, ports.1, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat());
    frame.extend(payload);
    frame
}

/// A tick of one interface that has counted `seen` packets at its end.
pub(crate) fn tick(number: u64, samples: &[SampleRecord], seen: u64) -> TickRecord {
    let iface = IfaceSeen { slot: 0, name: "wan0".to_owned(), seen, dropped: 0, samples_lost: 0, samples_capped: 0 };
    TickRecord {
        now: now(number),
        elapsed_ns: TICK_NS,
        counts: Box::default(),
        samples: samples.to_vec(),
        outbound: None,
        host: None,
        rules: Vec::new(),
        ifaces: vec![iface],
        events: Vec::new(),
        incidents: Vec::new(),
        wanted: None,
        slots: None,
    }
}

fn now(number: u64) -> Now {
    Now { mono_ns: number * TICK_NS, unix_ms: EPOCH_MS + number as i64 * 100 }
}

fn incident(id: &str) -> Incident {
    Incident { severity: Severity::High, ..Incident::new(id.to_owned(), Vector::NtpAmplification, now(0), now(0)) }
}

/// What a companion was told.
#[derive(Debug, PartialEq)]
enum Told {
    Begin { facts: usize, state_first: bool },
    Take,
    Finish(String),
}

struct Fake(mpsc::SyncSender<Told>);

impl Companion for Fake {
    fn begin(&mut self, dir: &Path, _: &Incident, pre_roll: &[Arc<Fact>]) {
        fs::write(dir.join("indicators.json"), "[]").unwrap();
        let state_first = matches!(pre_roll.first().map(Arc::as_ref), Some(Fact::State(_)));
        self.0.send(Told::Begin { facts: pre_roll.len(), state_first }).unwrap();
    }

    fn take(&mut self, _: &Fact) {
        self.0.send(Told::Take).unwrap();
    }

    fn finish(&mut self, incident: &Incident) -> io::Result<()> {
        self.0.send(Told::Finish(incident.id.clone())).unwrap();
        Err(io::Error::other("not all of it"))
    }
}

/// A recorder on a directory of its own, and a world that sends NTP answers at so many a tick, one in ten
/// of which is sampled, and a few DNS queries.
struct World {
    dir: tempfile::TempDir,
    recorder: Recorder,
    told: mpsc::Receiver<Told>,
    number: u64,
    seen: u64,
}

impl World {
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Config::parse(&format!("[capture]\nmin_free = \"0 B\"\n{settings}"), "t").unwrap().capture;
        let (recorder, told) = Self::recorder(dir.path(), settings);
        Self { dir, recorder, told, number: 0, seen: 5000 }
    }

    fn recorder(state: &Path, settings: Capture) -> (Recorder, mpsc::Receiver<Told>) {
        let (tell, told) = mpsc::sync_channel(100_000);
        let companions: Companions = Box::new(move || vec![Box::new(Fake(tell.clone())) as Box<dyn Companion>]);
        (Recorder::new(store::root(state), settings, companions, Arc::default()), told)
    }

    fn fact(&self, dropped: bool) -> TickRecord {
        let at = self.number * TICK_NS;
        // What does not compress: the file's size is that of a real one.
        let mut dice = at;
        let mut payload = || {
            let mut next = || {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (dice >> 56) as u8
            };
            (0..440).map(|_| next()).collect::<Vec<u8>>()
        };
        let answer = |i: u64, payload: &[u8]| {
            sample(at - TICK_NS / 2 + i, &udp(Ipv4Addr::from_bits(0x0500_0000 + i as u32), (123, 5000), payload))
        };
        let mut samples: Vec<SampleRecord> = (0..50).map(|i| answer(i, &payload())).collect();
        // Another CPU's, out of order.
        samples.push(sample(at - TICK_NS / 2, &udp(Ipv4Addr::new(9, 9, 9, 9), (5000, 53), &[0; 30])));
        for sample in samples.iter_mut().take(50) {
            sample.header.stride = 10;
            if dropped {
                (sample.header.verdict, sample.header.reason) = (verdict::DROP as u8, DropReason::Rule as u8);
                sample.header.rule = 3;
            }
        }
        let mut tick = tick(self.number, &samples, self.seen);
        let ntp = ClassCount { packets: 500, bytes: 0, dropped: if dropped { 500 } else { 0 } };
        tick.counts.classes[TrafficClass::UdpSrcNtp.index()] = ntp;
        tick
    }

    fn step(&mut self, change: impl FnOnce(&mut TickRecord)) {
        self.number += 1;
        self.seen += 501;
        let mut tick = self.fact(self.number > 60);
        change(&mut tick);
        self.recorder.take(Fact::Tick(Box::new(tick)));
        if self.number.is_multiple_of(10) {
            self.recorder.beat();
        }
    }

    fn run(&mut self, ticks: u64) {
        (0..ticks).for_each(|_| self.step(|_| {}));
    }

    fn open(&mut self, id: &str) {
        let incident = incident(id);
        self.step(|tick| {
            tick.events = vec![Event::Opened { id: incident.id.clone() }];
            tick.incidents = vec![incident];
            tick.slots = Some(vec![SlotRule {
                slot: 2,
                owner: "rule 1".to_owned(),
                matches: "udp sport 123".to_owned(),
                action: "drop".to_owned(),
            }]);
        });
    }

    fn close(&mut self, id: &str) {
        let mut incident = incident(id);
        self.step(|tick| {
            tick.events = vec![Event::Closed { id: incident.id.clone() }];
            incident.closed = Some(tick.now);
            tick.incidents = vec![incident];
        });
        self.run(31);
    }

    fn root(&self) -> PathBuf {
        store::root(self.dir.path())
    }

    fn read(&self, id: &str) -> Read {
        let opened = Opened::new(&self.root(), id).unwrap();
        let mut read = Read { meta: opened.meta().unwrap(), ..Read::default() };
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let number = |value: &[u8]| u64::from_le_bytes(value.try_into().unwrap());
        let found = survey(io::BufReader::new(opened.file(CAPTURE).unwrap()), |bytes| {
            for block in pcapng::blocks(bytes) {
                read.kinds.push(block.kind);
                if let Some((bytes, wire, options)) = block.packet() {
                    let options: BTreeMap<u16, &[u8]> = options.collect();
                    read.told += options.get(&4).map_or(0, |lost| number(lost));
                    read.packets.push((bytes.len(), wire, text(options[&1])));
                }
            }
        });
        assert!(!found.unwrap().torn);
        read
    }
}

#[derive(Debug, Default)]
struct Read {
    meta: Meta,
    kinds: Vec<u32>,
    /// Length, length on the wire, comment.
    packets: Vec<(usize, u32, String)>,
    /// Packets that others told to be lost.
    told: u64,
}

#[test]
fn a_capture_begins_before_its_incident_and_says_what_became_of_each_packet() {
    let mut world = World::new("pre_roll = \"2s\"");
    let core = Decider::new(Settings { trust_after_s: 1, seed: 1, mode: Mode::Observe });
    world.run(30);
    world.recorder.take(Fact::State(Arc::new(crate::record::tape::Image { core, breaks: false })));
    world.run(25);
    world.open("20260801T120000Z-1");
    world.run(100);
    world.close("20260801T120000Z-1");
    let Read { meta, kinds, packets, told } = world.read("20260801T120000Z-1");
    // Two seconds before, the tick in which it opened, ten seconds, the end and three seconds after it: 21
    // ticks of pre-roll, because both ends count.
    let ticks = 21 + 1 + 100 + 31;
    assert_eq!((meta.seen, meta.sampled, meta.written), (501 * ticks, 51 * ticks, 51 * ticks));
    assert_eq!(packets.len() as u64, meta.written);
    assert_eq!(meta.lost, Lost { not_sampled: 450 * ticks, ..Lost::default() });
    assert_eq!(meta.lost_total(), 450 * ticks);
    assert_eq!(told, 450 * (ticks - 1), "every packet is in the file, told of by a later one, or of the last tick");
    assert_eq!(kinds[..2], [pcapng::kind::SECTION, pcapng::kind::INTERFACE]);
    assert_eq!(kinds.last(), Some(&pcapng::kind::STATISTICS));
    let (length, wire, comment) = &packets[0];
    assert_eq!((*length, *wire), (42 + 64, 482));
    assert_eq!(comment, "verdict=passed class=udp_src_ntp stride=10 socket=unknown", "before anything was dropped");
    let dropped = "verdict=dropped reason=rule rule=2 (udp sport 123) class=udp_src_ntp stride=10 socket=unknown";
    assert!(packets.iter().any(|(_, _, comment)| comment == dropped));
    assert_eq!(meta.classes["udp_src_ntp"].seen, 500 * ticks);
    assert_eq!(meta.classes["udp_dns_query"].written, ticks);
    assert_eq!(meta.reasons["rule"], meta.verdicts["dropped"]);
    assert_eq!((meta.status, meta.kind), (Status::Closed, Kind::Incident));
    assert!(meta.incident.is_some_and(|incident| incident.closed.is_some()), "as it was last");
    let files: Vec<&str> = meta.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(files, [CAPTURE, "indicators.json"]);
    assert!(meta.notes[0].contains("not all of it"), "{:?}", meta.notes);
    let capture = fs::File::open(world.root().join("20260801T120000Z-1").join(CAPTURE)).unwrap();
    assert_eq!(frames::digest(capture).unwrap(), (meta.files[0].bytes, meta.files[0].sha256.clone()));

    let told: Vec<Told> = world.told.try_iter().collect();
    assert_eq!(told[0], Told::Begin { facts: 26, state_first: true }, "from the image before the pre-roll on");
    assert_eq!(told.iter().filter(|told| **told == Told::Take).count(), 132);
    assert_eq!(told.last(), Some(&Told::Finish("20260801T120000Z-1".to_owned())));
}

#[test]
fn times_are_those_of_the_packets_in_utc_and_in_order() {
    let mut world = World::new("pre_roll = \"1s\"");
    world.run(5);
    world.open("a");
    world.run(10);
    world.close("a");
    let meta = world.read("a").meta;
    let expected = EPOCH_MS as u64 * 1_000_000 + 2 * TICK_NS - TICK_NS / 2;
    assert_eq!(meta.first_ns, Some(expected), "the first tick that ever was tells from where on to count");
}

#[test]
fn a_disk_that_fails_costs_nothing_while_there_is_memory() {
    let mut world = World::new("pre_roll = \"1s\"");
    fs::write(world.root(), "a file is where the directory should be").unwrap();
    world.run(20);
    world.open("a");
    world.run(60);
    let status = world.recorder.status.lock().unwrap().clone();
    assert!(status.trouble.is_some_and(|trouble| trouble.contains("paths.state")));
    fs::remove_file(world.root()).unwrap();
    world.run(60);
    assert_eq!(world.recorder.status.lock().unwrap().trouble, None);
    world.close("a");
    let read = world.read("a");
    assert_eq!((read.meta.lost.disk, read.packets.len() as u64), (0, 51 * (11 + 1 + 120 + 31)));
    assert!(matches!(world.told.try_iter().next(), Some(Told::Begin { .. })), "and who goes along begins late");
}

#[test]
fn a_directory_that_is_removed_is_begun_anew() {
    let mut world = World::new("pre_roll = \"1s\"");
    world.run(20);
    world.open("a");
    world.run(40);
    fs::remove_dir_all(world.root().join("a")).unwrap();
    world.run(40);
    world.close("a");
    let Read { meta, packets, .. } = world.read("a");
    assert_eq!((packets.len() as u64, meta.seen / 501 * 51), (meta.written, meta.written), "what is declared is true");
    assert!(meta.written > 51 * 60, "{}", meta.written);
}

#[test]
fn what_the_recorder_and_the_kernel_lose_is_declared() {
    let mut world = World::new("pre_roll = \"1s\"");
    world.run(20);
    world.open("a");
    world.run(10);
    // Two ticks never came.
    (world.number, world.seen) = (world.number + 2, world.seen + 1002);
    world.recorder.lose(2, 102);
    world.step(|tick| tick.ifaces[0].samples_lost = 40);
    world.run(10);
    // Nor does what the kernel counts begin anew.
    world.close("a");
    let Meta { seen, written, lost, classes, .. } = world.read("a").meta;
    assert_eq!((lost.tape, lost.kernel), (102, 40));
    assert_eq!(seen, classes.values().map(|class| class.seen).sum::<u64>(), "what classes they were of is unknown");
    // A packet of each tick is of no class in this world, and all are of those that never came.
    assert_eq!(classes["unknown"].seen, (11 + 1 + 10 + 1 + 10 + 31 + 1 - 1) + 1002);
    assert_eq!(seen, written + lost.not_sampled + lost.tape + lost.kernel);
    assert_eq!(seen, 501 * (11 + 1 + 10 + 2 + 1 + 10 + 31 + 1) - 501);
}

/// The core after facts were lost, in which these incidents are open or not.
fn image(world: &World, incidents: Vec<Incident>) -> Fact {
    let mut core = Decider::new(Settings { trust_after_s: 1, seed: 1, mode: Mode::Observe });
    core.remember(incidents, now(world.number));
    Fact::State(Arc::new(crate::record::tape::Image { core, breaks: true }))
}

#[test]
fn an_incident_whose_beginning_or_end_was_lost_is_captured_from_there_and_until_there() {
    let mut world = World::new("pre_roll = \"1s\"");
    let before_any = image(&world, vec![incident("a")]);
    world.recorder.take(before_any);
    assert!(world.recorder.open.is_empty(), "nothing was lost before the first tick");
    world.run(20);
    // Nothing comes for two seconds, in which it opens.
    (world.number, world.seen) = (world.number + 20, world.seen + 20 * 501);
    let after = image(&world, vec![incident("a")]);
    world.recorder.take(after);
    world.run(30);
    assert_eq!(world.read("a").meta.status, Status::Open);
    let again = image(&world, vec![incident("a")]);
    world.recorder.take(again);
    assert_eq!(world.recorder.open.len(), 1, "it is known by now");
    // Nothing comes again, and it closes.
    (world.number, world.seen) = (world.number + 20, world.seen + 20 * 501);
    let closed = Incident { closed: Some(now(world.number)), ..incident("a") };
    let after = image(&world, vec![closed]);
    world.recorder.take(after);
    world.run(40);
    assert!(world.recorder.open.is_empty());
    let Read { meta, packets, .. } = world.read("a");
    assert_eq!((meta.status, meta.written), (Status::Closed, packets.len() as u64));
    assert!(meta.incident.is_some_and(|incident| incident.closed.is_some()), "as it was last");
    for lost in ["the beginning of the incident with them", "the end of the incident with them"] {
        assert!(meta.notes.iter().any(|note| note.contains(lost)), "{lost}: {:?}", meta.notes);
    }
    let begun =
        world.told.try_iter().find_map(|told| if let Told::Begin { facts, .. } = told { Some(facts) } else { None });
    assert!(begun.is_some_and(|facts| facts > 10), "with what was before: {begun:?}");
}

#[test]
fn an_incident_that_goes_on_after_a_restart_goes_on_in_its_file() {
    let mut world = World::new("pre_roll = \"1s\"");
    world.run(20);
    world.open("a");
    world.run(10);
    world.recorder.end();
    let before = world.read("a");
    assert_eq!(before.meta.status, Status::Interrupted);
    let (recorder, told) = World::recorder(world.dir.path(), world.recorder.settings);
    (world.recorder, world.told) = (recorder, told);
    world.recorder.begin();
    world.run(5);
    world.step(|tick| tick.events = vec![Event::Changed { id: "a".to_owned(), what: "goes on".to_owned() }]);
    world.run(5);
    world.close("a");
    let Read { meta, packets, kinds, .. } = world.read("a");
    assert_eq!(kinds.iter().filter(|kind| **kind == pcapng::kind::SECTION).count(), 2);
    assert!(meta.written == packets.len() as u64 && meta.written > before.meta.written, "{}", meta.written);
    assert_eq!(meta.status, Status::Closed);
    // What went along with the first life is there as it was, and said to be.
    let files: Vec<&str> = meta.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(files, [CAPTURE, "indicators.json", "life-1/indicators.json"]);
    assert_eq!(meta.files[2], FileFacts { name: files[2].to_owned(), ..before.meta.files[1].clone() });
    let note = meta.notes.iter().find(|note| note.contains("life-1/"));
    assert!(note.is_some_and(|note| note.contains("capture export a --capsule --life 1")), "{:?}", meta.notes);
    let bytes = store::list(&world.root()).unwrap()[0].bytes;
    assert!(bytes >= meta.files.iter().map(|file| file.bytes.next_multiple_of(512)).sum(), "{bytes}");
}

/// Lets a file be appended to only, or changed again; returns whether this file system and this user can.
fn append_only(path: &Path, on: bool) -> bool {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let file = fs::File::open(path).unwrap();
    let Ok(flags) = ioctl_getflags(&file) else { return false };
    ioctl_setflags(&file, if on { flags | IFlags::APPEND } else { flags - IFlags::APPEND }).is_ok()
}

#[test]
fn an_earlier_life_is_not_forgotten_where_its_torn_end_cannot_be_cut_off_at_once() {
    let mut world = World::new("pre_roll = \"1s\"");
    world.run(20);
    world.open("a");
    world.run(100);
    world.recorder.beat();
    let before = world.read("a").meta;
    let path = world.root().join("a").join(CAPTURE);
    // The machine crashes in the middle of a frame, and the file cannot be cut when it is up again.
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &[0x28, 0xb5, 0x2f, 0xfd, 4, 0x58]).unwrap();
    if !append_only(&path, true) {
        let why = "the file system has no append-only flag, or this process may not set it";
        crate::skipped::skip("recorder: a torn end that cannot be cut off at once", why);
        return;
    }
    let (recorder, told) = World::recorder(world.dir.path(), world.recorder.settings);
    (world.recorder, world.told) = (recorder, told);
    world.recorder.begin();
    world.run(5);
    world.step(|tick| tick.events = vec![Event::Changed { id: "a".to_owned(), what: "goes on".to_owned() }]);
    world.run(60);
    assert!(world.recorder.status.lock().unwrap().trouble.is_some(), "it is told");
    assert!(append_only(&path, false));
    world.run(60);
    assert_eq!(world.recorder.status.lock().unwrap().trouble, None);
    world.close("a");
    let Read { meta, packets, .. } = world.read("a");
    assert_eq!((meta.written, meta.begun_ms), (packets.len() as u64, before.begun_ms));
    assert!(meta.written >= before.written + 51 * 120 && meta.seen > before.seen, "{} {}", meta.written, meta.seen);
    assert!(meta.notes.iter().any(|note| note.contains("in the middle of a frame")), "{:?}", meta.notes);
}

#[test]
fn a_capture_whose_end_was_given_up_says_so_and_what_that_lost() {
    let mut world = World::new("pre_roll = \"1s\"");
    world.run(20);
    world.open("a");
    world.run(60);
    let aside = world.dir.path().join("aside");
    fs::rename(world.root(), &aside).unwrap();
    fs::write(world.root(), "a file is where the directory should be").unwrap();
    world.close("a");
    world.run(700);
    assert!(!world.recorder.has("a"), "it was given up");
    fs::remove_file(world.root()).unwrap();
    fs::rename(&aside, world.root()).unwrap();
    world.run(20);
    world.open("b");
    world.close("b");
    let Read { meta, packets, .. } = world.read("a");
    assert_eq!((meta.status, meta.written), (Status::Closed, packets.len() as u64), "{:?}", meta.notes);
    assert!(meta.lost.disk > 0, "{:?}", meta.lost);
    assert_eq!((meta.seen, meta.written + meta.lost.disk), (501 * (11 + 1 + 60 + 31), 51 * (11 + 1 + 60 + 31)));
    let note = meta.notes.iter().find(|note| note.contains("its end could not be written"));
    assert!(note.is_some_and(|note| note.contains(&meta.lost.disk.to_string())), "{:?}", meta.notes);
    assert!(!meta.notes.iter().any(|note| note.contains("the daemon ended")), "{:?}", meta.notes);
    assert!(meta.incident.is_some_and(|incident| incident.closed.is_some()), "as it was last");
    assert_eq!(meta.files[0].name, CAPTURE);
}

fn manual(id: &str) -> Manual {
    Manual {
        id: id.to_owned(),
        matches: "udp dport 53".parse().unwrap(),
        by: "ann(1000)".to_owned(),
        lasts: Duration::from_secs(3600),
        most_bytes: 1 << 20,
        full: false,
    }
}

#[test]
fn an_operators_capture_begins_once_it_is_known_from_where_to_count() {
    let mut world = World::new("");
    let (done, begun) = mpsc::sync_channel(1);
    world.recorder.asked.push((manual("manual-1"), done));
    world.recorder.start_asked();
    assert_eq!(begun.try_recv(), Err(mpsc::TryRecvError::Empty), "nothing is known before the first tick");
    world.run(1);
    world.recorder.start_asked();
    assert_eq!(begun.try_recv(), Ok(()));
    world.run(10);
    world.recorder.stop("manual-1", world.number * TICK_NS);
    world.run(1);
    let Read { meta, .. } = world.read("manual-1");
    assert_eq!((meta.seen, meta.written), (11 * 501, 11), "all since the answer");
    // One that is given up before it begins leaves nothing.
    let mut world = World::new("");
    let (done, begun) = mpsc::sync_channel(1);
    world.recorder.asked.push((manual("manual-1"), done));
    world.recorder.stop("manual-1", 0);
    world.run(1);
    world.recorder.start_asked();
    assert_eq!(begun.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    assert!(!world.recorder.root.join("manual-1").exists());
}

#[test]
fn an_operators_capture_has_what_matches_and_ends_in_time() {
    let mut world = World::new("pre_roll = \"5s\"");
    world.run(10);
    world.recorder.start(manual("manual-1"));
    world.recorder.start(manual("manual-2"));
    for recording in &mut world.recorder.open {
        recording.until_ns = Some((world.number + if recording.plan.id == "manual-1" { 20 } else { 1000 }) * TICK_NS);
    }
    world.run(40);
    // A tick that was read before it is told to end may still be on its way.
    world.recorder.stop("manual-2", (world.number + 2) * TICK_NS);
    world.run(5);
    for (id, ticks) in [("manual-1", 20), ("manual-2", 42)] {
        let Read { meta, packets, told, .. } = world.read(id);
        assert_eq!((packets.len(), meta.lost.unmatched, told), (ticks, 50 * ticks as u64, 0), "{id}");
        assert_eq!((meta.kind, meta.matches.as_deref()), (Kind::Manual, Some("udp dport 53")));
        assert_eq!((meta.by.as_deref(), meta.status), (Some("ann(1000)"), Status::Closed));
    }
    assert_eq!(world.told.try_iter().count(), 0, "nobody goes along");
}

#[test]
fn a_small_cap_keeps_rare_classes_and_is_kept() {
    let mut world = World::new("pre_roll = \"1s\"\nincident_bytes = \"8 MiB\"");
    world.run(20);
    world.open("a");
    world.run(3000);
    world.close("a");
    let Read { meta, packets, .. } = world.read("a");
    let [ntp, dns] = ["udp_src_ntp", "udp_dns_query"].map(|class| meta.classes[class]);
    assert!(meta.files[0].bytes <= 8 << 20, "{}", meta.files[0].bytes);
    assert!(ntp.left_out > ntp.written && dns.left_out == 0, "{ntp:?} {dns:?}");
    assert_eq!(meta.lost.quota, ntp.left_out + dns.left_out);
    assert_eq!(
        (meta.written, meta.seen),
        (packets.len() as u64, meta.lost.not_sampled + meta.lost.quota + meta.written)
    );
}

#[test]
fn the_thread_ends_with_everything_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut tape, reader) = crate::record::tape::tape(64 << 20);
    let settings = Config::parse("[capture]\nmin_free = \"0 B\"", "t").unwrap().capture;
    let handle = spawn(dir.path(), settings, (reader, None), Box::new(Vec::new), AuditLog::default()).unwrap();
    for number in 1..=30 {
        let mut tick = tick(number, &[sample(number * TICK_NS, &udp(Ipv4Addr::LOCALHOST, (1, 2), &[]))], number);
        if number == 10 {
            tick.events = vec![Event::Opened { id: "a".to_owned() }];
            tick.incidents = vec![incident("a")];
        }
        tape.put(Fact::Tick(Box::new(tick)));
    }
    handle.manual(None).unwrap_err();
    handle.end();
    let text = fs::read_to_string(store::root(dir.path()).join("a").join(META)).unwrap();
    let meta: Meta = serde_json::from_str(&text).unwrap();
    assert_eq!((meta.written, meta.seen, meta.status), (29, 29, Status::Interrupted));
}
