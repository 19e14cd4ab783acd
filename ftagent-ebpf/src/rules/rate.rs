//! Rate limits: one pool of tokens for all CPUs.
#![expect(unsafe_code, reason = "the BPF target has atomics in assembly only")]

use core::arch::asm;

use ftagent_common::rules::{DEBT_SHIFT, State};

/// What a pool gives out.
#[derive(Clone, Copy)]
pub struct Rate {
    /// Tokens that become available each jiffy.
    pub per_jiffy: u64,
    /// Tokens that may be saved up.
    pub burst: u64,
    /// Tokens that a CPU takes at a time.
    pub chunk: u64,
}

/// As [`is_within`], of a state's rate.
#[inline(always)]
pub fn is_within_state(state: &mut State, lease: &mut u64, cost: u64, now: u64) -> bool {
    let rate = Rate { per_jiffy: state.per_jiffy, burst: state.burst, chunk: state.chunk };
    // SAFETY: the state's own field.
    unsafe { is_within(&raw mut state.spent, rate, lease, cost, now) }
}

/// Takes the tokens for a packet; returns whether there were any. `lease`: what this CPU has taken
/// of the pool and not spent; of another pool's, no more than a chunk of this one counts.
///
/// The pool is one for all CPUs: `spent` is its account. A CPU takes a chunk at a time and spends it
/// on its own. Under a flood the pool is empty and only read: its line stays shared. Two CPUs that take
/// at once may overdraw it; the debt is paid before anything else is given out, so the mean rate is exact.
///
/// # Safety
/// `spent` is a field of a map value that is written by atomic instructions only.
#[inline(always)]
pub unsafe fn is_within(spent: *mut u64, rate: Rate, lease: &mut u64, cost: u64, now: u64) -> bool {
    let Rate { per_jiffy, burst, chunk } = rate;
    let left = (*lease).min(chunk);
    if left >= cost {
        *lease = left - cost;
        return true;
    }
    let earned = per_jiffy.wrapping_mul(now);
    // SAFETY: by the caller.
    let before = unsafe { spent.read_volatile() };
    let available = earned.wrapping_sub(before);
    // A rate of nothing has no burst either, and nobody's account.
    if burst == 0 || available == 0 || available.wrapping_neg() <= burst << DEBT_SHIFT {
        return false;
    }
    if available > burst {
        // More was saved up than may be, or the account is that of another rate.
        // SAFETY: as above.
        unsafe { exchange(spent, before, earned.wrapping_sub(burst)) };
    }
    let want = chunk.max(cost - left);
    // SAFETY: as above.
    unsafe { add(spent, want) };
    *lease = left + want - cost;
    true
}

/// Adds to a number that other CPUs add to.
///
/// # Safety
/// `to` is a field of a map value.
#[inline(always)]
unsafe fn add(to: *mut u64, value: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) to, in(reg) value, options(nostack)) };
}

/// Replaces a number unless another CPU has changed it. Kernel 5.12.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
unsafe fn exchange(at: *mut u64, old: u64, new: u64) {
    // Lints look at this as host code, which has no such register.
    #[cfg(target_arch = "bpf")]
    // SAFETY: by the caller.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) at, in(reg) new, inout("r0") old => _, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _unused = (at, old, new);
}
