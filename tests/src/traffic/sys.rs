//! The unsafe of this crate: socket calls that no library wraps, and the layouts of BPF maps.
#![expect(unsafe_code, reason = "the one place for system calls and map layouts")]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::spec::{Received, Spec, State, Vlan};

// SAFETY: all of them are `repr(C)` of integers without implicit padding, as their size
// assertions say.
unsafe impl aya::Pod for Spec {}
// SAFETY: see above.
unsafe impl aya::Pod for State {}
// SAFETY: see above.
unsafe impl aya::Pod for Received {}
// SAFETY: see above.
unsafe impl aya::Pod for Vlan {}

/// Opens a packet(7) socket that only sends, by way of an interface, past its queueing
/// discipline.
///
/// # Errors
/// What socket(2), setsockopt(2) and bind(2) say; it needs CAP_NET_RAW.
pub fn packet_socket(ifindex: u32) -> io::Result<OwnedFd> {
    // Protocol 0: nothing is received.
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let on: libc::c_int = 1;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: both pointers are to values of the sizes given, which outlive the calls.
    let rc = unsafe {
        match libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        ) {
            0 => libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t),
            failed => failed,
        }
    };
    if rc == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

/// `struct ethtool_value` (uapi/linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Has the kernel compute checksums and segments before a packet reaches the interface, as
/// `ethtool -K NAME tx off gso off` does.
pub(crate) fn software_checksums(name: &str) -> io::Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const ETHTOOL_SGSO: u32 = 0x24;
    const SIOCETHTOOL: u32 = 0x8946;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    for command in [ETHTOOL_STXCSUM, ETHTOOL_SGSO] {
        let mut value = EthtoolValue { command, data: 0 };
        // SAFETY: an all-zero `ifreq` is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value that it points to outlive the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
