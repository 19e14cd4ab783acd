//! What is known about drivers and XDP. Advice, not a gate: the versions have not been tried on
//! each driver, and one that is not here may still do it. Attaching tells.

/// A driver that runs XDP natively.
#[derive(Clone, Copy, Debug)]
pub(super) struct Driver {
    pub(super) name: &'static str,
    /// The kernel since which it does, for those later than the agent's own minimum of 5.18.
    pub(super) since: Option<(u32, u32)>,
    /// The kernel since which it takes frames of several buffers; `None`: not yet.
    pub(super) frags: Option<(u32, u32)>,
    /// What else there is to say.
    pub(super) note: &'static str,
}

/// The largest MTU whose frames fit a page of 4 KiB, less XDP's headroom of 256 bytes, the
/// 320 bytes of `skb_shared_info`, the Ethernet header, one VLAN tag and the FCS: what ENA allows
/// (drivers/net/ethernet/amazon/ena, `ENA_XDP_MAX_MTU`). Others are near it, some below.
pub(super) const PAGE_MTU: u32 = 3498;

const fn driver(name: &'static str, frags: Option<(u32, u32)>) -> Driver {
    Driver { name, since: None, frags, note: "" }
}

const DRIVERS: &[Driver] = &[
    driver("atlantic", Some((5, 19))),
    driver("bnxt_en", Some((5, 19))),
    driver("dpaa2-eth", None),
    Driver {
        note: "needs a spare transmit queue for each queue in use: at most half of the card's channels",
        ..driver("ena", None)
    },
    driver("fsl_enetc", Some((5, 18))),
    Driver { since: Some((6, 4)), ..driver("gve", None) },
    driver("hv_netvsc", None),
    driver("i40e", Some((6, 4))),
    driver("ice", Some((6, 3))),
    driver("igb", None),
    driver("igc", None),
    driver("ixgbe", None),
    driver("ixgbevf", None),
    driver("mana", None),
    driver("mlx4_en", None),
    driver("mlx4_core", None),
    driver("mlx5_core", Some((5, 18))),
    driver("mvneta", Some((5, 18))),
    driver("nfp", None),
    driver("qede", None),
    driver("sfc", None),
    driver("st_gmac", None),
    driver("stmmac", None),
    driver("thunder-nicvf", None),
    driver("tun", None),
    driver("veth", Some((5, 18))),
    Driver {
        note: "sends from XDP under a lock unless it has a spare queue pair for each CPU",
        ..driver("virtio_net", Some((6, 3)))
    },
    Driver { since: Some((6, 6)), ..driver("vmxnet3", None) },
    driver("xen-netfront", None),
];

/// Returns what is known about a driver.
pub(super) fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}
