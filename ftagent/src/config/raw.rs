//! The configuration as it is written. Defaults live here and nowhere else.

use serde::{Deserialize, Serialize};

use super::{AttachMode, LogFormat, LogLevel, MitigationMode, OnAuditFailure, Payload, RulePlane};
use crate::decide::ladder::{Approve, LadderMode};

macro_rules! sections {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty = $default:expr,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "a table")]
        #[expect(missing_docs, reason = "`reference` documents every key, and a test holds it to that")]
        pub struct $name { $(pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    )*};
}

sections! {
    /// The whole file.
    Raw {
        interfaces: RawInterfaces = RawInterfaces::default(),
        paths: RawPaths = RawPaths::default(),
        metrics: RawMetrics = RawMetrics::default(),
        block: RawBlock = RawBlock::default(),
        feed: RawFeedPolicy = RawFeedPolicy::default(),
        lists: RawLists = RawLists::default(),
        services: RawServices = RawServices::default(),
        sampling: RawSampling = RawSampling::default(),
        probation: RawProbation = RawProbation::default(),
        learning: RawLearning = RawLearning::default(),
        mitigation: RawMitigation = RawMitigation::default(),
        uplink: RawUplink = RawUplink::default(),
        ladder: RawLadder = RawLadder::default(),
        remote: RawRemote = RawRemote::default(),
        bgp: RawBgp = RawBgp::default(),
        audit: RawAudit = RawAudit::default(),
        capture: RawCapture = RawCapture::default(),
        indicators: RawIndicators = RawIndicators::default(),
        alerts: RawAlerts = RawAlerts::default(),
        log: RawLog = RawLog::default(),
        feeds: Vec<RawFeed> = Vec::new(),
        scrub: Vec<RawScrub> = Vec::new(),
    }

    /// `[interfaces]`
    RawInterfaces {
        names: Vec<String> = vec!["auto".into()],
        mode: AttachMode = AttachMode::default(),
    }

    /// `[paths]`
    RawPaths {
        bpffs: String = "/sys/fs/bpf/ftagent".into(),
        state: String = "/var/lib/ftagent".into(),
        socket: String = "/run/ftagent/control.sock".into(),
    }

    /// `[metrics]`
    RawMetrics {
        enabled: bool = true,
        listen: String = "127.0.0.1:9464".into(),
    }

    /// `[block]`
    RawBlock {
        default_duration: String = "1h".into(),
        max_duration: String = "30d".into(),
    }

    /// `[feed]`
    RawFeedPolicy {
        ttl: String = "1h".into(),
        reload_interval: String = "2s".into(),
    }

    /// `[lists]`
    RawLists {
        allow: Vec<String> = Vec::new(),
        block: Vec<String> = Vec::new(),
    }

    /// `[services]`
    RawServices {
        udp: Vec<i64> = Vec::new(),
        detect: bool = true,
    }

    /// `[sampling]`
    RawSampling {
        rate_pps: i64 = 10000,
        burst: i64 = 32,
    }

    /// `[probation]`
    RawProbation {
        enabled: bool = true,
        window: String = "10s".into(),
    }

    /// `[learning]`
    RawLearning {
        trust_after: String = "10m".into(),
    }

    /// `[mitigation]`
    RawMitigation {
        mode: MitigationMode = MitigationMode::default(),
        plane: RulePlane = RulePlane::default(),
    }

    /// `[uplink]`
    RawUplink {
        capacity: String = String::new(),
        prefixes: Vec<String> = Vec::new(),
    }

    /// `[ladder]`
    RawLadder {
        mode: LadderMode = LadderMode::On,
        patience: String = "2m".into(),
        trickle: String = "1 Mbit/s".into(),
        never_black_hole: Vec<String> = Vec::new(),
        rungs: Vec<RawRung> = Vec::new(),
    }

    /// An element of `[[ladder.rungs]]`; of an empty field or one of -1, what is sensible for the plane.
    RawRung {
        plane: String = String::new(),
        does: String = String::new(),
        approve: Approve = Approve::Ask,
        utilisation_percent: i64 = -1,
        lost_pps: i64 = -1,
        softirq_percent: i64 = -1,
        residual_percent: i64 = -1,
        activation: String = String::new(),
        hold: String = String::new(),
        longest_hold: String = String::new(),
        most: i64 = 0,
        per_day: i64 = 0,
        probe: String = String::new(),
    }

    /// `[remote]`
    RawRemote {
        endpoint: String = String::new(),
        bucket: String = String::new(),
        prefix: String = String::new(),
        region: String = "us-east-1".into(),
        path_style: bool = false,
        credentials: String = String::new(),
        ca_file: String = String::new(),
        part_mib: i64 = 8,
    }

    /// `[bgp]`
    RawBgp {
        daemon: String = String::new(),
        gobgp_address: String = "127.0.0.1:50051".into(),
        exabgp_pipes: String = "/run/exabgp".into(),
        asn: i64 = 0,
        marker: String = String::new(),
        own_prefixes: Vec<String> = Vec::new(),
        protect: Vec<String> = Vec::new(),
        next_hop4: String = "192.0.2.1".into(),
        next_hop6: String = "100::1".into(),
        communities: Vec<String> = vec!["65535:666".into(), "no-export".into()],
        flowspec_communities: Vec<String> = Vec::new(),
        max_announcements: i64 = 64,
        packet_rates: bool = false,
        blackhole_prefixes: bool = false,
        source_blackhole: bool = false,
    }

    /// `[audit]`
    RawAudit {
        enabled: bool = true,
        checkpoint_lines: i64 = 1000,
        checkpoint_interval: String = "1m".into(),
        segment_mib: i64 = 16,
        retention_days: i64 = 365,
        on_failure: OnAuditFailure = OnAuditFailure::default(),
        append_only: bool = true,
    }

    /// `[capture]`
    RawCapture {
        enabled: bool = true,
        memory: String = "64 MiB".into(),
        pre_roll: String = "10s".into(),
        incident_bytes: String = "64 MiB".into(),
        journal_bytes: String = "64 MiB".into(),
        payload: Payload = Payload::default(),
        keep_days: i64 = 365,
        keep_bytes: String = "10 GiB".into(),
        min_free: String = "1 GiB".into(),
    }

    /// `[indicators]`
    RawIndicators {
        enabled: bool = true,
        paths: Vec<String> = vec!["/etc/ftagent/patterns.d".into()],
    }

    /// `[alerts]`
    RawAlerts {
        node: String = String::new(),
        link: String = String::new(),
        changed_interval: String = "5m".into(),
        storm: i64 = 5,
        trouble_after: String = "10s".into(),
        give_up_after: String = "3d".into(),
        retry_first: String = "1s".into(),
        retry_longest: String = "5m".into(),
        max_entries: i64 = 10000,
        max_bytes: String = "32 MiB".into(),
        sinks: Vec<RawAlertSink> = Vec::new(),
        maintenance: Vec<RawMaintenance> = Vec::new(),
    }

    /// An element of `[[alerts.sinks]]`; an empty field was not written.
    RawAlertSink {
        name: String = String::new(),
        kind: String = String::new(),
        secret: String = String::new(),
        severity: String = "low".into(),
        vectors: Vec<String> = Vec::new(),
        events: Vec<String> = Vec::new(),
        title: String = String::new(),
        text: String = String::new(),
        rate_per_minute: i64 = 0,
        timeout: String = "15s".into(),
        ca_file: String = String::new(),
        url: String = String::new(),
        teams: Vec<String> = Vec::new(),
        chat: String = String::new(),
        server: String = String::new(),
        tls: String = String::new(),
        user: String = String::new(),
        from: String = String::new(),
        to: Vec<String> = Vec::new(),
        address: String = String::new(),
        format: String = String::new(),
        facility: String = String::new(),
    }

    /// An element of `[[alerts.maintenance]]`.
    RawMaintenance {
        from: String = String::new(),
        to: String = String::new(),
        days: Vec<String> = Vec::new(),
        sinks: Vec<String> = Vec::new(),
    }

    /// `[log]`
    RawLog {
        level: LogLevel = LogLevel::default(),
        format: LogFormat = LogFormat::default(),
    }

    /// An element of `[[feeds]]`; an empty field was not written.
    RawFeed {
        name: String = String::new(),
        path: String = String::new(),
    }

    /// An element of `[[scrub]]`; an empty field was not written.
    RawScrub {
        name: String = String::new(),
        provider: String = String::new(),
        credentials: String = String::new(),
        account: String = String::new(),
        prefixes: Vec<String> = Vec::new(),
        endpoint: String = String::new(),
        ca_file: String = String::new(),
        takes: Vec<String> = Vec::new(),
        min_hold: String = String::new(),
        min_gap: String = String::new(),
    }
}
