//! The configuration as it is written. Defaults live here and nowhere else.

use serde::{Deserialize, Serialize};

use super::{AttachMode, LogFormat, LogLevel, MitigationMode, OnAuditFailure, Payload};

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
        remote: RawRemote = RawRemote::default(),
        audit: RawAudit = RawAudit::default(),
        capture: RawCapture = RawCapture::default(),
        indicators: RawIndicators = RawIndicators::default(),
        log: RawLog = RawLog::default(),
        feeds: Vec<RawFeed> = Vec::new(),
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
}
