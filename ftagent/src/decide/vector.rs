//! Attack vectors: what the conclusions are called.

use ftagent_common::TrafficClass;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

macro_rules! vectors {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// An attack vector. The names are those users see in alerts, reports and metrics; once
        /// shipped they do not change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Vector {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Vector {
            /// Every vector.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the name that users see, for example `syn_flood`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what it is, in words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

vectors! {
    /// SYNs whose handshakes are never completed.
    SynFlood = "syn_flood",
    /// SYN-ACKs that nobody asked for.
    SynAckFlood = "syn_ack_flood",
    /// Bare ACKs out of any connection.
    AckFlood = "ack_flood",
    /// Data segments out of any connection.
    PshAckFlood = "psh_ack_flood",
    /// Resets.
    RstFlood = "rst_flood",
    /// FINs out of any connection.
    FinFlood = "fin_flood",
    /// TCP without any flag.
    NullFlood = "null_flood",
    /// TCP with FIN, PSH and URG.
    XmasFlood = "xmas_flood",
    /// Other combinations of flags that no stack sends.
    TcpFlagFlood = "tcp_flag_flood",
    /// Complete handshakes and nothing useful after.
    TcpConnectionFlood = "tcp_connection_flood",
    /// Unsolicited answers of middleboxes: block pages from port 80 or 443.
    TcpMiddleboxReflection = "tcp_middlebox_reflection",
    /// Character generator, port 19.
    ChargenAmplification = "chargen_amplification",
    /// Quote of the day, port 17.
    QotdAmplification = "qotd_amplification",
    /// DNS answers, port 53.
    DnsAmplification = "dns_amplification",
    /// TFTP, port 69.
    TftpAmplification = "tftp_amplification",
    /// Portmapper, port 111.
    PortmapAmplification = "portmap_amplification",
    /// NTP, port 123.
    NtpAmplification = "ntp_amplification",
    /// NetBIOS name service, port 137.
    NetbiosAmplification = "netbios_amplification",
    /// SNMP, port 161.
    SnmpAmplification = "snmp_amplification",
    /// Connectionless LDAP, port 389.
    CldapAmplification = "cldap_amplification",
    /// SLP, port 427.
    SlpAmplification = "slp_amplification",
    /// IKE, ports 500 and 4500.
    IsakmpAmplification = "isakmp_amplification",
    /// RIP, port 520.
    RipAmplification = "rip_amplification",
    /// IPMI, port 623.
    IpmiAmplification = "ipmi_amplification",
    /// OpenVPN, port 1194.
    OpenvpnAmplification = "openvpn_amplification",
    /// SQL Server resolution, port 1434.
    MssqlAmplification = "mssql_amplification",
    /// L2TP, port 1701.
    L2tpAmplification = "l2tp_amplification",
    /// SSDP, port 1900 or answers in its form.
    SsdpAmplification = "ssdp_amplification",
    /// Plex discovery, ports 32410 to 32414.
    PlexAmplification = "plex_amplification",
    /// Apple Remote Desktop, port 3283.
    ArdAmplification = "ard_amplification",
    /// STUN, port 3478.
    StunAmplification = "stun_amplification",
    /// WS-Discovery, port 3702.
    WsdAmplification = "wsd_amplification",
    /// SIP answers, port 5060.
    SipAmplification = "sip_amplification",
    /// Multicast DNS, port 5353.
    MdnsAmplification = "mdns_amplification",
    /// CoAP, port 5683.
    CoapAmplification = "coap_amplification",
    /// BitTorrent DHT and uTP, port 6881.
    BittorrentAmplification = "bittorrent_amplification",
    /// Ubiquiti discovery, port 10001.
    UbiquitiAmplification = "ubiquiti_amplification",
    /// Mitel test facility, port 10074.
    MitelAmplification = "mitel_amplification",
    /// memcached, port 11211.
    MemcachedAmplification = "memcached_amplification",
    /// Quake servers, port 27960.
    QuakeAmplification = "quake_amplification",
    /// Source engine servers, port 27015.
    SteamAmplification = "steam_amplification",
    /// Jenkins discovery, port 33848.
    JenkinsAmplification = "jenkins_amplification",
    /// Video recorders, port 37810.
    DvrAmplification = "dvr_amplification",
    /// BACnet, port 47808.
    BacnetAmplification = "bacnet_amplification",
    /// QUIC servers, port 443.
    QuicAmplification = "quic_amplification",
    /// Answers of a reflector that is not listed: one source port, many sources, uniform payloads.
    AmplificationUnknown = "amplification_unknown",
    /// DNS queries.
    DnsQueryFlood = "dns_query_flood",
    /// DNS queries for random names under one zone.
    DnsWaterTorture = "dns_water_torture",
    /// QUIC Initial packets.
    QuicFlood = "quic_flood",
    /// SIP requests.
    SipFlood = "sip_flood",
    /// Queries to game servers.
    GameQueryFlood = "game_query_flood",
    /// Opening packets of VPNs.
    VpnFlood = "vpn_flood",
    /// UDP junk.
    UdpFlood = "udp_flood",
    /// Fragments that never make a datagram.
    FragmentFlood = "fragment_flood",
    /// ICMP and ICMPv6.
    IcmpFlood = "icmp_flood",
    /// ICMP destination unreachable (BlackNurse).
    IcmpUnreachableFlood = "icmp_unreachable_flood",
    /// Echo replies of many hosts that were not asked.
    Smurf = "smurf",
    /// GRE.
    GreFlood = "gre_flood",
    /// ESP.
    EspFlood = "esp_flood",
    /// IP in IP.
    IpipFlood = "ipip_flood",
    /// Any other protocol.
    ProtocolFlood = "protocol_flood",
    /// Packets that no stack would send.
    MalformedFlood = "malformed_flood",
    /// HTTP requests.
    HttpFlood = "http_flood",
    /// TLS handshakes.
    TlsFlood = "tls_flood",
    /// Connections held open with little data.
    SlowHttp = "slow_http",
    /// A flood spread over a prefix, each address under its threshold.
    CarpetBombing = "carpet_bombing",
    /// Two or more vectors at once; the incident lists them.
    MultiVector = "multi_vector",
}

impl Vector {
    /// Returns the vector of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|vector| vector.as_str() == name)
    }

    /// Returns the amplification that a reflector's class stands for.
    pub const fn of_reflector(class: TrafficClass) -> Option<Self> {
        use TrafficClass::*;
        Some(match class {
            UdpSrcChargen => Self::ChargenAmplification,
            UdpSrcQotd => Self::QotdAmplification,
            UdpSrcDns => Self::DnsAmplification,
            UdpSrcTftp => Self::TftpAmplification,
            UdpSrcPortmap => Self::PortmapAmplification,
            UdpSrcNtp => Self::NtpAmplification,
            UdpSrcNetbios => Self::NetbiosAmplification,
            UdpSrcSnmp => Self::SnmpAmplification,
            UdpSrcCldap => Self::CldapAmplification,
            UdpSrcSlp => Self::SlpAmplification,
            UdpSrcIsakmp => Self::IsakmpAmplification,
            UdpSrcRip => Self::RipAmplification,
            UdpSrcIpmi => Self::IpmiAmplification,
            UdpSrcOpenvpn => Self::OpenvpnAmplification,
            UdpSrcMssql => Self::MssqlAmplification,
            UdpSrcL2tp => Self::L2tpAmplification,
            UdpSrcSsdp => Self::SsdpAmplification,
            UdpSrcPlex => Self::PlexAmplification,
            UdpSrcArd => Self::ArdAmplification,
            UdpSrcStun => Self::StunAmplification,
            UdpSrcWsd => Self::WsdAmplification,
            UdpSrcSip => Self::SipAmplification,
            UdpSrcMdns => Self::MdnsAmplification,
            UdpSrcCoap => Self::CoapAmplification,
            UdpSrcBittorrent => Self::BittorrentAmplification,
            UdpSrcUbiquiti => Self::UbiquitiAmplification,
            UdpSrcMitel => Self::MitelAmplification,
            UdpSrcMemcached => Self::MemcachedAmplification,
            UdpSrcQuake => Self::QuakeAmplification,
            UdpSrcSteam => Self::SteamAmplification,
            UdpSrcJenkins => Self::JenkinsAmplification,
            UdpSrcDvr => Self::DvrAmplification,
            UdpSrcBacnet => Self::BacnetAmplification,
            UdpSrcQuic => Self::QuicAmplification,
            _ => return None,
        })
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| D::Error::custom(format!("there is no vector `{name}`")))
    }
}
