//! Nanoseconds per packet under `BPF_PROG_TEST_RUN`, net of a bare pass.

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRunOptions, include_bytes_aligned,
    maps::{Array, MapData, ProgramArray},
    programs::{TestRun as _, Xdp},
};
use nix::time::{ClockId, clock_gettime};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::frames::{HEAD, Kind};

static TRAFFIC: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ftagent-traffic"));
static BENCH: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ftagent-bench"));

/// Entries of the `steps` map in `ftagent-ebpf/src/bench.rs`.
pub const STEPS: u32 = 1 << 16;
/// Entries of its `templates` map.
const TEMPLATES: u32 = 64;

/// `Template` in `ftagent-ebpf/src/bench.rs`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Template {
    head: [u8; HEAD],
    family: u32,
    ports: u32,
}

#[expect(unsafe_code, reason = "Pod is how aya moves a value through a map")]
// SAFETY: `repr(C)` of plain integers without padding; any bit pattern is a value.
unsafe impl Pod for Template {}

/// A program to measure.
pub struct Subject<'a> {
    /// Its name in the table.
    pub name: &'static str,
    /// The program, loaded.
    pub program: &'a Xdp,
    /// Whether it was loaded with `frags`: the prologue in front of it must be, too.
    pub frags: bool,
    /// What it must return.
    pub verdict: u32,
}

/// The frames of a measurement.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// One frame, again and again.
    Constant(&'a [u8]),
    /// Frames of these kinds in random order, from random sources out of the list (any source,
    /// if it is empty). All frames are as long as the longest.
    Cycle(&'a [&'a Kind], &'a [u32]),
}

/// Loads the programs that look a socket up and do nothing else: `lookup_tcp` and `lookup_udp`.
pub fn lookups() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(BENCH).context("loading `ftagent-bench`")?;
    load(&mut ebpf, "lookup_tcp")?;
    load(&mut ebpf, "lookup_udp")?;
    Ok(ebpf)
}

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs of each program in a round.
    pub repeat: u32,
    /// Rounds; the programs take turns in each.
    pub rounds: usize,
}

/// The harness: the bare passes, and the prologue.
pub struct Bench {
    traffic: Ebpf,
    plain: Ebpf,
    prologue: Prologue,
    effort: Effort,
    rng: ChaCha8Rng,
}

/// The programs of `ftagent-ebpf/src/bench.rs` and their maps.
struct Prologue {
    bench: Ebpf,
    target: ProgramArray<MapData>,
    target_plain: ProgramArray<MapData>,
    templates: Array<MapData, Template>,
    steps: Array<MapData, u64>,
}

impl Bench {
    /// Loads the harness's programs.
    pub fn new(effort: Effort, seed: u64) -> Result<Self> {
        let mut traffic = EbpfLoader::new().load(TRAFFIC).context("loading `ftagent-traffic`")?;
        let mut plain = EbpfLoader::new().load(BENCH).context("loading `ftagent-bench`")?;
        load(&mut traffic, "pass")?;
        load(&mut plain, "pass_plain")?;
        Ok(Self { traffic, plain, prologue: Prologue::new()?, effort, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Measures programs in turns; returns the median net of a bare pass for each, in ns.
    /// `between` is called after every run of a program.
    pub fn measure(
        &mut self,
        subjects: &[Subject<'_>],
        input: Input<'_>,
        between: &mut dyn FnMut(),
    ) -> Result<Vec<f64>> {
        let frame = self.prologue.prepare(input, &mut self.rng)?;
        let pass = Subject { name: "pass", program: loaded(&self.traffic, "pass")?, frags: true, verdict: 2 };
        let pass_plain =
            Subject { name: "pass", program: loaded(&self.plain, "pass_plain")?, frags: false, verdict: 2 };
        let (prologue, repeat) = (&mut self.prologue, self.effort.repeat);
        let mut net = vec![Vec::with_capacity(self.effort.rounds); subjects.len()];
        for round in 0..=self.effort.rounds {
            let bare = prologue.run(&pass, input, &frame, repeat)?;
            let bare_plain = prologue.run(&pass_plain, input, &frame, repeat)?;
            for (subject, net) in subjects.iter().zip(&mut net) {
                let ns = prologue.run(subject, input, &frame, repeat)?;
                between();
                // The first round warms up.
                if round > 0 {
                    net.push(ns - if subject.frags { bare } else { bare_plain });
                }
            }
        }
        Ok(net.into_iter().map(median).collect())
    }
}

impl Bench {
    /// Measures programs that leave another frame behind, in turns: each frame in a run of its own. Returns the
    /// median for each, in ns, of which only differences mean anything: the system call is in it.
    pub fn singly(
        &mut self,
        subjects: &[Subject<'_>],
        frames: &[Vec<u8>],
        between: &mut dyn FnMut(),
    ) -> Result<Vec<f64>> {
        let mut took = vec![Vec::with_capacity(self.effort.rounds); subjects.len()];
        let runs = self.effort.repeat as usize / 4;
        for round in 0..=self.effort.rounds {
            for (subject, took) in subjects.iter().zip(&mut took) {
                let before = cpu_ns()?;
                for frame in frames.iter().cycle().take(runs) {
                    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
                    let result = subject.program.test_run(options).with_context(|| subject.name)?;
                    if result.return_value != subject.verdict {
                        bail!("`{}` returned {} instead of {}", subject.name, result.return_value, subject.verdict);
                    }
                }
                let ns = (cpu_ns()? - before) as f64 / runs as f64;
                between();
                if round > 0 {
                    took.push(ns);
                }
            }
        }
        Ok(took.into_iter().map(median).collect())
    }
}

/// This thread's CPU time so far, ns.
fn cpu_ns() -> Result<i64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

impl Prologue {
    fn new() -> Result<Self> {
        let mut bench = EbpfLoader::new().load(BENCH).context("loading `ftagent-bench`")?;
        load(&mut bench, "cycle")?;
        load(&mut bench, "cycle_plain")?;
        let mut take = |name: &'static str| bench.take_map(name).with_context(|| format!("no map `{name}`"));
        Ok(Self {
            target: take("target")?.try_into()?,
            target_plain: take("target_plain")?.try_into()?,
            templates: take("templates")?.try_into()?,
            steps: take("steps")?.try_into()?,
            bench,
        })
    }

    /// Fills the prologue's maps; returns the frame to hand to the kernel.
    fn prepare(&mut self, input: Input<'_>, rng: &mut ChaCha8Rng) -> Result<Vec<u8>> {
        let (kinds, sources) = match input {
            Input::Constant(frame) => return Ok(frame.to_vec()),
            Input::Cycle(kinds, sources) => (kinds, sources),
        };
        let longest = kinds.iter().map(|kind| &kind.frame).max_by_key(|frame| frame.len());
        let longest = longest.context("no kinds to cycle through")?.clone();
        for i in 0..TEMPLATES {
            let kind = kinds[i as usize % kinds.len()];
            let mut template = Template { head: [0; HEAD], family: kind.family, ports: u32::from(kind.ports) };
            template.head.copy_from_slice(&kind.frame[..HEAD]);
            self.templates.set(i, template, 0)?;
        }
        for i in 0..STEPS {
            let random: u64 = rng.random();
            let source = match sources {
                [] => unicast(random as u32),
                _ => sources[random as u32 as usize % sources.len()],
            };
            self.steps.set(i, random & !0xffff_ffff | u64::from(source), 0)?;
        }
        Ok(longest)
    }

    /// Returns ns of this thread's CPU time for one run. The kernel reports whole nanoseconds,
    /// too coarse here, and its clock goes on while it works for others.
    fn run(&mut self, subject: &Subject<'_>, input: Input<'_>, frame: &[u8], repeat: u32) -> Result<f64> {
        let program = match (input, subject.frags) {
            (Input::Constant(_), _) => subject.program,
            (Input::Cycle(..), true) => {
                self.target.set(0, subject.program.fd()?, 0)?;
                loaded(&self.bench, "cycle")?
            }
            (Input::Cycle(..), false) => {
                self.target_plain.set(0, subject.program.fd()?, 0)?;
                loaded(&self.bench, "cycle_plain")?
            }
        };
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        let before = cpu_ns()?;
        let result = program.test_run(options).with_context(|| format!("running `{}`", subject.name))?;
        let ns = cpu_ns()? - before;
        if result.return_value != subject.verdict {
            bail!("`{}` returned {} instead of {}", subject.name, result.return_value, subject.verdict);
        }
        Ok(ns as f64 / f64::from(repeat))
    }
}

/// Loads an XDP program of an object into the kernel.
pub fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?;
    <&mut Xdp>::try_from(program)?.load().with_context(|| format!("loading `{name}`"))
}

/// Returns a program that was loaded.
pub fn loaded<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let program = ebpf.program(name).with_context(|| format!("no program `{name}`"))?;
    Ok(program.try_into()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Makes any number the address of a host that may send: 1.0.0.0 to 126.255.255.255.
pub fn unicast(random: u32) -> u32 {
    (random % (126 << 24)) + (1 << 24)
}
