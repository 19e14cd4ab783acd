//! The agent: joins the kernel program, the poll loop, the lists and the surfaces, in one place.
//!
//! One thread owns everything that changes: it takes calls from the control socket, signals and
//! a tick a second, one at a time. The poll loop and the metrics have threads of their own and
//! never wait for it.

mod alerts;
mod audit;
mod bounds;
pub mod brain;
mod capture;
mod commands;
mod explain;
mod feeds;
mod gate;
pub mod iface;
mod keeper;
mod knowledge;
mod ladder;
mod mitigator;
pub(crate) mod nftables;
pub(crate) mod planes;
mod report;
mod rules;
pub(crate) mod start;
mod surface;
mod trail;
mod trap;

use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, RingBuf};
use ftagent_common::{
    abi::{Sampling, maps},
    class::CLASS_SLOTS,
};
use nix::fcntl::Flock;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use self::{
    brain::Brain,
    iface::{Failures, Iface, State},
    keeper::{Keeper, Opened},
    rules::mode_of,
    start::{PINS, check_privileges, interface_names, load, lock, lock_state},
    surface::Surface,
};
use crate::{
    act::{
        operator::OperatorRules,
        store::{Store, unix},
    },
    alert::Post,
    bpf::{
        self,
        attach::{Mode, Outcome},
        base,
        clock::JiffyClock,
        counters::CounterReader,
        lists::Lists,
        load::{fd, open_map},
        pins::Pins,
    },
    config::{AttachMode, Config, Metrics},
    decide::ladder::{Kept, Kind},
    feeds::Feeds,
    record::{
        audit::{AuditLog, Entry},
        recorder::Handle,
        remote::Remote,
    },
    sense::{
        host::{
            HostFacts, HostRoot, udp_services,
            watch::{self, Latest},
        },
        poll::{Poll, Target},
    },
    serve::{
        control::Call,
        metrics::{self, Sources},
    },
};

/// Everything the daemon owns.
pub struct Agent {
    config: Config,
    config_path: Option<PathBuf>,
    config_loaded: SystemTime,
    pins: Pins,
    ifaces: Vec<Iface>,
    lists: Lists,
    feeds: Feeds,
    /// Why the kernel has other block lists than were accepted.
    unpublished: Option<String>,
    store: Store,
    /// The rules of operators.
    rules: OperatorRules,
    clock: JiffyClock,
    failures: Failures,
    sources: Arc<Sources>,
    brain: Brain,
    /// Taken by the thread that records, once that starts.
    keeper: Option<Keeper>,
    audit: AuditLog,
    /// The states of interfaces that the audit log knows.
    seen_states: BTreeMap<String, &'static str>,
    /// Tells people; absent until the agent runs.
    post: Option<Post>,
    /// Absent where nothing is recorded.
    recorder: Option<Handle>,
    /// The configuration, as capsules have it.
    written: capture::Written,
    /// Captures of whole packets.
    whole: Vec<capture::Whole>,
    /// Absent where rules are in the kernel program.
    nft: Option<nftables::Nftables>,
    /// Absent where nothing is copied.
    remote: Option<Remote>,
    host: HostRoot,
    facts: Option<(Instant, HostFacts)>,
    service_ports: Vec<u16>,
    /// The planes beyond this host, until their threads start.
    drivers: Vec<planes::Opened>,
    /// What planes there are.
    planes: Vec<(String, Kind)>,
    /// What is never black-holed, and once carried a session.
    kept: Vec<Kept>,
    started: Instant,
    ticks: u64,
    /// Why nobody can call.
    deaf: Option<String>,
    warnings: Vec<String>,
    /// Held until the process ends, however it does.
    _locks: Vec<Flock<File>>,
}

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A signal asked it to; link and maps stay pinned and the kernel goes on enforcing.
    Stopped,
    /// `ftagent detach` asked it to; everything was removed.
    Detached,
}

/// Ticks (seconds) between looks at this host's listeners and the kernel's clocks.
const SLOW_TICKS: u64 = 10;

impl Agent {
    /// Loads the datapath and restores the lists. Nothing is attached yet.
    ///
    /// # Errors
    /// Anything that would leave an interface unprotected; pins of an earlier daemon stay as they
    /// are.
    pub fn start(config: Config, config_path: Option<PathBuf>) -> Result<Self> {
        check_privileges()?;
        let locks = lock_state(&config.paths.state)?;
        let log = audit::open(&config).context("starting the audit log")?;
        Self::open(config, config_path, locks, log.clone()).inspect_err(|error| {
            audit::close(&log, &Err(anyhow::anyhow!("{error:#}")));
        })
    }

    fn open(
        config: Config,
        config_path: Option<PathBuf>,
        mut locks: Vec<Flock<File>>,
        audit: AuditLog,
    ) -> Result<Self> {
        let host = HostRoot::default();
        let names = interface_names(&config, &host)?;
        let pins = Pins::prepare(&config.paths.bpffs)?;
        locks.push(lock(&config.paths.bpffs, File::open(&config.paths.bpffs), PINS)?);
        let mode = match config.interfaces.mode {
            AttachMode::Native => Mode::Native,
            AttachMode::Generic => Mode::Generic,
        };
        let mut ifaces = load(&names, mode, &pins)?;
        let first = ifaces.first_mut().context("no interface is configured")?;
        let clock = JiffyClock::calibrate(&mut first.ebpf).context("reading the kernel's clocks")?;
        let mut lists = Lists::open(&first.ebpf)?;
        let (mut store, damage) = Store::open(&config.paths.state)?;
        let mut warnings: Vec<String> = damage.iter().map(|damage| crate::chain(damage)).collect();
        let (restored, adopted) = store.reconcile(&mut lists, &clock)?;
        if restored + adopted > 0 {
            info!(restored, adopted, "Block and allow entries were restored.");
        }
        let (rules, damage) = OperatorRules::open(&config.paths.state)?;
        warnings.extend(damage.iter().map(|damage| crate::chain(damage)));
        let opened = keeper::open(&config.paths.state, config.learning.trust_after, mode_of(&config));
        let Opened { brain, keeper, inherited, told } = opened.context("seeding the decisions")?;
        warnings.extend(told);
        warnings.iter().for_each(|warning| warn!("{warning}"));
        warnings.truncate(8);
        let feeds = Feeds::new(&config, &config.paths.state);
        let failures = Failures::open(&config.paths.state);
        let mut agent = Self {
            written: capture::Written::new(&config),
            config,
            config_path,
            config_loaded: SystemTime::now(),
            pins,
            ifaces,
            lists,
            feeds,
            unpublished: None,
            store,
            rules,
            clock,
            failures,
            sources: Arc::default(),
            brain,
            keeper: Some(keeper),
            audit,
            seen_states: BTreeMap::new(),
            post: None,
            recorder: None,
            whole: Vec::new(),
            nft: None,
            remote: None,
            host,
            facts: None,
            service_ports: Vec::new(),
            drivers: Vec::new(),
            planes: Vec::new(),
            kept: Vec::new(),
            started: Instant::now(),
            ticks: 0,
            deaf: None,
            warnings,
            _locks: locks,
        };
        agent.set_sampling()?;
        agent.open_planes();
        agent.open_rules(inherited)?;
        agent.apply_static_lists()?;
        agent.poll_feeds(true)?;
        agent.refresh_services()?;
        Ok(agent)
    }

    /// Attaches, once nothing else is left that can fail and the lists are complete, and runs
    /// until a signal or `ftagent detach` ends it.
    ///
    /// # Errors
    /// Where a surface cannot be set up or an interface not be protected.
    pub fn run(self) -> Result<Ended> {
        let log = self.audit.clone();
        let ended = self.live();
        audit::close(&log, &ended);
        ended
    }

    fn live(mut self) -> Result<Ended> {
        let socket = self.config.paths.socket.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let (surface, calls) = Surface::open(&socket)?;
            let listener = self.bind_metrics()?;
            self.attach_all()?;
            // Threads inherit what is left of the capabilities, so this comes before any.
            match crate::privileges::drop_unneeded() {
                Ok(kept) => info!(?kept, "Capabilities that are not needed any more were dropped."),
                Err(error) => warn!(%error, "Capabilities could not be dropped."),
            }
            let post = self.start_alerts()?;
            let (shared, latest) = (Arc::clone(&self.sources.shared), Arc::new(Latest::default()));
            watch::spawn(self.host.clone(), Arc::clone(&latest)).context("starting to watch the host")?;
            self.start_recorder()?;
            let saved = self.start_planes();
            let keeper = self.keeper.take().context("the agent runs once")?;
            let keeper = keeper.spawn(saved, &self.audit, post.clone()).context("starting to record")?;
            let poll = self.poll(&latest)?.spawn(Arc::clone(&shared)).context("starting the poll loop")?;
            self.publish_facts();
            if let Some(listener) = listener {
                let address = metrics::serve(listener, Arc::clone(&self.sources)).context("serving metrics")?;
                info!(%address, "Metrics are served.");
            }
            notify(&[NotifyState::Ready]);
            info!("Ready.");
            let ended = self.serve((surface, calls), &poll).await?;
            notify(&[NotifyState::Stopping]);
            shared.stop();
            latest.stop();
            self.brain.stop_planes();
            if poll.join().is_err() {
                error!("The poll loop had panicked.");
            }
            keeper.stop();
            post.stop();
            self.recorder.take().into_iter().for_each(Handle::end);
            Ok(ended)
        })
    }

    fn bind_metrics(&self) -> Result<Option<TcpListener>> {
        let Metrics { enabled, listen } = self.config.metrics;
        let bind = || TcpListener::bind(listen).with_context(|| format!("serving metrics at {listen}"));
        enabled.then(bind).transpose()
    }

    async fn serve(
        &mut self,
        (mut surface, mut calls): (Surface, mpsc::Receiver<Call>),
        poll: &thread::JoinHandle<()>,
    ) -> Result<Ended> {
        surface.look()?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => match self.hung_up() {
                    Ok(()) => info!("The configuration was read again."),
                    Err(error) => error!(error = format!("{error:#}"), "The configuration was not taken; the old one stays."),
                },
                call = calls.recv() => {
                    let Some(call) = call else { bail!("the control socket's task ended") };
                    let detach = call.request == crate::serve::protocol::Request::Detach;
                    let (answer, done) = self.answer(call.request, &call.caller);
                    self.publish_facts();
                    // A caller that has hung up does not undo what was done.
                    let _hung_up = call.answer.send(answer);
                    if detach && done {
                        // The answer needs a turn of the runtime to be written.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        return Ok(Ended::Detached);
                    }
                }
                _ = second.tick() => {
                    // Blind is worse than restarted: the kernel goes on enforcing meanwhile.
                    if poll.is_finished() {
                        bail!("the poll loop ended");
                    }
                    surface.look()?;
                    self.deaf = surface.trouble();
                    self.second();
                }
            }
        }
        info!("Stopping; the datapath stays attached and enforces what has not expired.");
        Ok(Ended::Stopped)
    }

    /// What happens every second. Nothing in here may end the daemon.
    fn second(&mut self) {
        self.ticks += 1;
        notify(&[NotifyState::Watchdog]);
        self.lists.renew_feeds(self.clock.after(self.config.feed.ttl));
        let window = self.config.probation.enabled.then_some(self.config.probation.window);
        let snapshot = self.sources.shared.snapshot();
        for iface in &mut self.ifaces {
            let seen = snapshot.ifaces.iter().find(|s| s.slot == iface.slot).map_or(0, |s| s.total.seen());
            iface::watch(iface, &self.pins, &mut self.failures, window, seen);
        }
        self.audit_interfaces();
        self.tell_nftables();
        self.watch_disk();
        self.tell_health();
        self.end_rules();
        self.end_captures();
        let every = self.config.feed.reload_interval.as_secs().max(1);
        if self.ticks.is_multiple_of(every)
            && let Err(error) = self.poll_feeds(false)
        {
            error!(error = format!("{error:#}"), "Replacing the feeds failed; the old ones stay in force.");
        }
        if self.ticks.is_multiple_of(SLOW_TICKS) {
            self.slow();
        }
        self.publish_facts();
    }

    fn slow(&mut self) {
        if let Some(first) = self.ifaces.first_mut()
            && let Err(error) = self.clock.refresh(&mut first.ebpf)
        {
            warn!(error = crate::chain(&error), "Reading the kernel's clocks failed.");
        }
        self.refresh_bounds();
        self.feeds.save();
        self.keep_mark();
        if let Err(error) = self.store.sweep(&mut self.lists) {
            warn!(
                error = crate::chain(&error),
                "Expired entries could not be removed; they count no more all the same."
            );
        }
        if let Err(error) = self.refresh_services() {
            warn!(
                error = format!("{error:#}"),
                "This host's UDP services could not be read; the last known ones stay."
            );
        }
    }

    fn attach_all(&mut self) -> Result<()> {
        let mut fresh = Vec::new();
        let mut reader = CounterReader::new().context("counting CPUs")?;
        for iface in &mut self.ifaces {
            // Pinned counters go on from an earlier life: those packets prove nothing.
            let counted = reader.total(fd(&iface.ebpf, maps::COUNTERS)?, iface.slot).context("reading the counters")?;
            let seen = counted.seen() + iface.base.seen();
            if let Some(wait) = self.failures.wait(&iface.name).filter(|wait| !wait.is_zero()) {
                let reason =
                    format!("it failed probation three times within an hour; next try in {} s", wait.as_secs());
                error!(interface = %iface.name, %reason, "Not attached.");
                iface.state = State::Detached { reason, retry: Instant::now() + wait };
                continue;
            }
            match iface.attach(&self.pins, self.config.probation.enabled, seen) {
                Ok(Outcome::Fresh) => fresh.push(iface.name.clone()),
                Ok(Outcome::TakenOver) => {}
                Err(error) if self.nft.is_some() && nftables::goes_without(&error) => {
                    nftables::go_without(iface, &error);
                }
                Err(error) => {
                    self.audit_interfaces();
                    self.undo(&fresh);
                    return Err(error.into());
                }
            }
        }
        self.audit_interfaces();
        self.release_others();
        self.drop_older_versions();
        self.sources.shared.set_targets(
            self.ifaces
                .iter()
                .map(|iface| Target { name: iface.name.clone(), slot: iface.slot, base: iface.base.clone() })
                .collect(),
        );
        Ok(())
    }

    /// A start that fails leaves things as they were: what it attached anew is taken off again.
    fn undo(&mut self, fresh: &[String]) {
        for iface in self.ifaces.iter_mut().filter(|iface| fresh.contains(&iface.name)) {
            if let Err(error) = iface.detach(&self.pins) {
                error!(interface = %iface.name, %error, "Taking the fresh attachment off again failed.");
            }
        }
    }

    /// Releases interfaces that an earlier daemon protected and this configuration does not name:
    /// nobody would look at them any more. Pins of interfaces that are gone go with them.
    fn release_others(&self) {
        let others = self.pins.links().into_iter();
        for (ifindex, pin) in others.filter(|(index, _)| !self.ifaces.iter().any(|i| i.attached() == Some(*index))) {
            match std::fs::remove_file(&pin) {
                Ok(()) => {
                    warn!(ifindex, "An interface that the configuration does not name any more was released.");
                    let why = "the configuration does not name it any more";
                    self.audit.after(Entry::new("interface.release", ifindex.to_string()).because(why));
                }
                Err(error) => warn!(pin = %pin.display(), %error, "A pin that nothing needs could not be removed."),
            }
        }
    }

    /// Older versions' maps go once nothing runs with them; their counters stay as a base.
    fn drop_older_versions(&mut self) {
        // A program that was replaced may still be running on another CPU for an instant.
        if !self.pins.foreign_maps().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
            for iface in &mut self.ifaces {
                *iface.base = base::of_interface(&self.pins, &iface.name);
            }
        }
        for dir in self.pins.foreign_maps() {
            if let Err(error) = Pins::keep_only(&dir, &[maps::COUNTERS, maps::SLOTS, base::LAYOUT]) {
                warn!(path = %dir.display(), %error, "Maps of another version could not be removed.");
            }
        }
    }

    fn set_sampling(&self) -> Result<()> {
        let Some(first) = self.ifaces.first() else { return Ok(()) };
        let sampling = Sampling { stride: [1; CLASS_SLOTS], burst: self.config.sampling.burst, _pad: 0 };
        bpf::set_sampling(&first.ebpf, sampling).context("setting up the sampler")
    }

    fn poll(&self, latest: &Arc<Latest>) -> Result<Poll> {
        let first = self.ifaces.first().context("no interface is configured")?;
        let brain = self.brain.clone();
        Ok(Poll {
            counters: fd(&first.ebpf, maps::COUNTERS)?.try_clone_to_owned()?,
            ring: RingBuf::try_from(Map::RingBuf(open_map(&first.ebpf, maps::SAMPLES)?))?,
            sampling: Array::try_from(Map::Array(open_map(&first.ebpf, maps::SAMPLING)?))?,
            sample_rate: self.config.sampling.rate_pps,
            burst: self.config.sampling.burst,
            host: Arc::clone(latest),
            sink: Box::new(move |observed| brain.observe(observed)),
        })
    }

    fn refresh_services(&mut self) -> Result<()> {
        let mut ports = self.config.services.udp.clone();
        if self.config.services.detect {
            let mut problems = Vec::new();
            ports.extend(udp_services(&self.host, &mut problems));
            if let Some(problem) = problems.first() {
                bail!("{problem}");
            }
        }
        ports.sort_unstable();
        ports.dedup();
        if ports != self.service_ports {
            let Some(first) = self.ifaces.first() else { return Ok(()) };
            bpf::set_service_ports(&first.ebpf, &ports)?;
            self.service_ports = ports;
        }
        Ok(())
    }
}

/// Tells systemd, where it is listening.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told.");
    }
}
