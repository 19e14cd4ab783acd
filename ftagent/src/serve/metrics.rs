//! `/metrics` and `/healthz`, on a thread and a runtime of their own: under attack they answer
//! whatever else the daemon is doing.
//!
//! | route | answer |
//! |---|---|
//! | `GET /metrics` | Prometheus text format 0.0.4 |
//! | `GET /healthz` | 200 while the poll loop ticks, else 503 |

mod alert;
mod audit;
mod capture;
mod detection;
mod ladder;
mod mitigation;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use axum::{
    Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use ftagent_common::{TrafficClass, reason::DropReason};
use prometheus::{Encoder as _, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder};

use crate::{
    decide::ladder::View,
    record::{audit::AuditMetrics, recorder::status::CaptureStatus},
    sense::poll::Shared,
};

pub use detection::Detection;
pub use mitigation::Mitigation;

/// A poll loop that has not ticked for this long is not healthy.
const STALE: Duration = Duration::from_secs(2);

/// What the agent tells the metrics beyond counters.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Interface, mode and state of each configured interface.
    pub ifaces: Vec<(String, String, bool)>,
    /// Entries by list: `block`, `allow` and each feed.
    pub lists: Vec<(String, usize)>,
    /// Feeds that are held.
    pub feeds_held: usize,
    /// Seconds since the epoch of the last good read of the configuration.
    pub config_loaded: u64,
    /// What the functional core knows and has found.
    pub detection: Detection,
    /// What is done about it.
    pub mitigation: Mitigation,
    /// What is asked of the network upstream.
    pub ladder: View,
    /// The audit log; `None` where there is none.
    pub audit: Option<AuditMetrics>,
    /// What is recorded; absent where nothing is.
    pub capture: Option<CaptureStatus>,
    /// Who is told; absent until the agent runs.
    pub alerts: Option<crate::alert::Status>,
    /// Nothing can be written to the state directory.
    pub unwritable: bool,
}

/// What a scrape reads.
#[derive(Debug, Default)]
pub struct Sources {
    /// The poll loop's results.
    pub shared: Arc<Shared>,
    /// The agent's facts.
    pub facts: Mutex<Facts>,
}

/// The metrics, each with its help text. The list in `docs/METRICS.md` is generated from it.
pub const METRICS: [(&str, &str); 55] = [
    ("ftagent_packets_total", "Packets seen by the datapath, dropped ones included, by interface and traffic class."),
    ("ftagent_bytes_total", "Bytes of those packets: from the Ethernet header on, without FCS."),
    ("ftagent_dropped_packets_total", "Packets dropped, by interface, traffic class and reason."),
    ("ftagent_dropped_bytes_total", "Bytes of the dropped packets, by interface and traffic class."),
    ("ftagent_verdicts_total", "Packets by interface and verdict; the sum is that of ftagent_packets_total."),
    ("ftagent_overruled_total", "Drop decisions that the allow list overruled, by interface."),
    ("ftagent_samples_total", "Packet samples written to the ring, by interface."),
    ("ftagent_early_ticks_total", "Ticks that ended early because the kernel said that there was too much of a class."),
    ("ftagent_samples_lost_total", "Packet samples lost because the ring was full, by interface."),
    ("ftagent_samples_capped_total", "Packet samples skipped by the cap per class, CPU and jiffy, by interface."),
    ("ftagent_xdp_info", "1 for every interface where the datapath is attached, with its mode."),
    ("ftagent_list_entries", "Entries in each list: block, allow and every feed."),
    ("ftagent_feeds_held", "Feeds whose change waits for an operator's confirmation."),
    (
        "ftagent_baseline_packets_per_second",
        "What is normal now, by traffic class; only classes that were seen. All interfaces together, as are the \
         thresholds.",
    ),
    ("ftagent_baseline_bytes_per_second", "What is normal now, in bytes per second; times 8 for bits."),
    ("ftagent_threshold_packets_per_second", "Above this rate a class is looked at closely; it follows the baseline."),
    ("ftagent_threshold_bytes_per_second", "The same in bytes per second."),
    (
        "ftagent_ceiling_packets_per_second",
        "What the threshold may never cross, however traffic grows, before its bounded growth allows.",
    ),
    ("ftagent_ceiling_bytes_per_second", "The same in bytes per second."),
    (
        "ftagent_learning_state",
        "1 for the present state: new (nothing is trusted yet), learning (the first week), learned; else 0.",
    ),
    ("ftagent_incidents_total", "Incidents that opened since the daemon started, by attack vector."),
    ("ftagent_incident_active", "Incidents that are open now, by attack vector; 0 where there is none."),
    ("ftagent_time_to_detect_seconds", "Time from the first packet above normal to the opening of the incident."),
    (
        "ftagent_time_to_mitigate_seconds",
        "Time from the first packet above normal to the first rule that drops, of incidents that got one.",
    ),
    (
        "ftagent_rules",
        "Rules by plane (xdp: the kernel program) and state: shadow (it counts), enforcing, armed (it removed an \
         earlier attack, and limits what matches until the next), failed.",
    ),
    ("ftagent_rule_drift", "Rules that are wanted minus rules that the kernel has; it should be 0."),
    (
        "ftagent_rule_packets_total",
        "Packets that matched a rule since the daemon started, by the rule's slot; only slots that were used. Slots \
         are used again.",
    ),
    (
        "ftagent_rule_collateral_ratio",
        "Estimated share of the benign packets of a rule's scope (its family, protocols and destination) that it \
         dropped in the last ten seconds, 0 to 1, by the rule's slot; only rules of which it is known.",
    ),
    (
        "ftagent_notices_total",
        "Things to know that are no attack since the daemon started, such as load that looks human.",
    ),
    ("ftagent_uplink_bits_per_second", "What arrives over the fullest link towards the network, drops here included."),
    (
        "ftagent_uplink_capacity_bits_per_second",
        "What that link carries: `uplink.capacity`, or what the driver says; absent where neither is known.",
    ),
    (
        "ftagent_ladder_steps",
        "What is asked of each rung's plane, by state: waiting (for approval), asked, present (read back), failed.",
    ),
    ("ftagent_ladder_plane_up", "1 while a rung's plane works as a whole, 0 while its daemon or provider is away."),
    (
        "ftagent_black_hole_seconds_total",
        "Seconds that victims spent in black holes, summed over victims, over restarts; divide by 60 for black-hole \
         minutes.",
    ),
    ("ftagent_ladder_escalations_total", "Times that a rung of the ladder was climbed, over restarts."),
    ("ftagent_ladder_probes_total", "Times that it was probed whether a rung is still needed, over restarts."),
    ("ftagent_ladder_failed_probes_total", "Probes that found the attack still there, over restarts."),
    ("ftagent_audit_entries_total", "Entries written to the audit log since the daemon started."),
    (
        "ftagent_audit_lost_total",
        "Entries of the audit log that were lost because the disk did not take them; the log says where. It should be 0.",
    ),
    ("ftagent_audit_unsigned_lines", "Lines at the end of the audit log that no checkpoint covers yet."),
    ("ftagent_audit_write_failures_total", "Times that the audit log could not be written. It should be 0."),
    ("ftagent_capture_packets_total", "Packets written to captures since the daemon started."),
    (
        "ftagent_capture_lost_total",
        "Packets that came in while something was captured and are not in the file, by reason: not_sampled, kernel (no \
         room for the sample), tape (the recorder was too slow), quota (the file is nearly full), disk.",
    ),
    ("ftagent_capture_ring_bytes", "Memory that the last seconds of samples take, about."),
    ("ftagent_capture_disk_bytes", "What captures take on disk."),
    (
        "ftagent_indicator_hits_total",
        "Samples of incidents that matched a pattern of the library since the daemon started, by pattern; `custom`: those of \
         operators' own files.",
    ),
    (
        "ftagent_alerts_total",
        "Alerts that were done with since the daemon started, by sink and result: delivered, digested (delivered in one \
         with others), refused, given_up, crowded (too many waited), dropped (the sink was removed).",
    ),
    ("ftagent_alerts_waiting", "Alerts that wait to be delivered, by sink."),
    ("ftagent_alert_oldest_seconds", "How long the oldest of them waits, by sink."),
    ("ftagent_alert_failures_total", "Tries to deliver that failed since the daemon started, by sink."),
    ("ftagent_alert_sink_up", "1 while nothing is known against a sink, 0 while its deliveries fail."),
    ("ftagent_alert_outbox_bytes", "Bytes of the outbox on disk."),
    ("ftagent_alert_outbox_unsaved", "1 while the outbox cannot be written to disk. It should be 0."),
    (
        "ftagent_state_unwritable",
        "1 while nothing can be written to `paths.state`: the node is protected, and nothing is kept. It should be 0.",
    ),
    ("ftagent_build_info", "1, with the version as a label."),
];

fn help(name: &str) -> &'static str {
    METRICS.iter().find(|(known, _)| *known == name).map_or("", |(_, help)| help)
}

/// Serves until the process ends; returns the address.
///
/// # Errors
/// Where the thread cannot be started.
pub fn serve(listener: TcpListener, sources: Arc<Sources>) -> io::Result<SocketAddr> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("metrics".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let served = runtime.and_then(|runtime| {
            runtime.block_on(async {
                let routes = Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz));
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, routes.with_state(sources)).await
            })
        });
        if let Err(error) = served {
            tracing::error!(%error, "Serving metrics ended.");
        }
    })?;
    Ok(address)
}

async fn healthz(State(sources): State<Arc<Sources>>) -> impl IntoResponse {
    let age = sources.shared.snapshot().at.elapsed();
    if age < STALE {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the poll loop has not ticked for {} s\n", age.as_secs()))
    }
}

async fn metrics(State(sources): State<Arc<Sources>>) -> impl IntoResponse {
    match encode(&sources) {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, format!("{TEXT_FORMAT}; charset=utf-8"))], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// A registry of one scrape: the values live in the kernel, not here.
struct Scrape(Registry);

impl Scrape {
    fn counter(&self, name: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(name, help(name)), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(name, help(name)), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn rate(&self, name: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let metric = GaugeVec::new(Opts::new(name, help(name)), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

/// Returns the metrics in Prometheus' text format.
///
/// # Errors
/// None in practice: names and labels are constants.
pub fn encode(sources: &Sources) -> prometheus::Result<Vec<u8>> {
    let scrape = Scrape(Registry::new());
    counters(&scrape, &sources.shared)?;
    let facts = sources.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    detection::families(&scrape, &facts.detection)?;
    mitigation::families(&scrape, &facts.mitigation)?;
    ladder::families(&scrape, &facts.ladder)?;
    if let Some(audit) = &facts.audit {
        audit::families(&scrape, audit)?;
    }
    capture::families(&scrape, facts.capture.as_ref())?;
    if let Some(alerts) = &facts.alerts {
        alert::families(&scrape, alerts)?;
    }
    let info = scrape.gauge("ftagent_xdp_info", &["interface", "mode"])?;
    for (name, mode, attached) in &facts.ifaces {
        if *attached {
            info.with_label_values(&[name, mode]).set(1);
        }
    }
    let entries = scrape.gauge("ftagent_list_entries", &["list"])?;
    for (list, count) in &facts.lists {
        entries.with_label_values(&[list]).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    let held = scrape.gauge("ftagent_feeds_held", &[])?;
    held.with_label_values::<&str>(&[]).set(i64::try_from(facts.feeds_held).unwrap_or(i64::MAX));
    let unwritable = scrape.gauge("ftagent_state_unwritable", &[])?;
    unwritable.with_label_values::<&str>(&[]).set(i64::from(facts.unwritable));
    let build = scrape.rate("ftagent_build_info", &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    let mut text = Vec::new();
    TextEncoder::new().encode(&scrape.0.gather(), &mut text)?;
    Ok(text)
}

fn counters(scrape: &Scrape, shared: &Shared) -> prometheus::Result<()> {
    let packets = scrape.counter("ftagent_packets_total", &["interface", "class"])?;
    let bytes = scrape.counter("ftagent_bytes_total", &["interface", "class"])?;
    let drops = scrape.counter("ftagent_dropped_packets_total", &["interface", "class", "reason"])?;
    let dropped_bytes = scrape.counter("ftagent_dropped_bytes_total", &["interface", "class"])?;
    let verdicts = scrape.counter("ftagent_verdicts_total", &["interface", "verdict"])?;
    let overruled = scrape.counter("ftagent_overruled_total", &["interface"])?;
    let samples = scrape.counter("ftagent_samples_total", &["interface"])?;
    let lost = scrape.counter("ftagent_samples_lost_total", &["interface"])?;
    let capped = scrape.counter("ftagent_samples_capped_total", &["interface"])?;
    let early = scrape.counter("ftagent_early_ticks_total", &[])?;
    early.with_label_values::<&str>(&[]).inc_by(shared.wakes.load(Ordering::Relaxed));
    for iface in &shared.snapshot().ifaces {
        let (name, total) = (iface.name.as_str(), &iface.total);
        for class in TrafficClass::ALL {
            let counter = total.class(class);
            packets.with_label_values(&[name, class.as_str()]).inc_by(counter.packets);
            bytes.with_label_values(&[name, class.as_str()]).inc_by(counter.bytes);
            dropped_bytes.with_label_values(&[name, class.as_str()]).inc_by(counter.dropped_bytes);
            for reason in DropReason::ALL {
                let dropped = total.drops[class.index()][reason.index()];
                drops.with_label_values(&[name, class.as_str(), reason.as_str()]).inc_by(dropped);
            }
        }
        for (verdict, count) in (0..).zip(total.verdicts) {
            verdicts.with_label_values(&[name, ftagent_common::reason::verdict::name(verdict)]).inc_by(count);
        }
        overruled.with_label_values(&[name]).inc_by(total.overruled);
        samples.with_label_values(&[name]).inc_by(total.samples);
        lost.with_label_values(&[name]).inc_by(total.samples_lost);
        capped.with_label_values(&[name]).inc_by(total.samples_capped);
    }
    Ok(())
}
