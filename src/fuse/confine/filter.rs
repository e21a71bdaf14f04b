//! The filter of system calls, as the kernel takes it: a program for its packet filter, which is run at each call.
//!
//! It looks at the number of the call alone. So the kernel works out once which numbers are let through, and what a call
//! then costs is a look at one bit (since Linux 5.11).

use std::io;

use super::calls::Calls;

/// What to do about a call that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It fails with ENOSYS.
    Fails,
    /// Whoever has the listener is asked.
    IsAsked,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
/// No number of an architecture: nothing is filtered there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: u32 = 0;

/// Where the kernel puts the number of the call, and that of the architecture, for the program to load.
const NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
const ARCH: u32 = std::mem::offset_of!(libc::seccomp_data, arch) as u32;

/// The number of a call that a tracer (strace) has called off: the kernel makes none.
const CALLED_OFF: u32 = u32::MAX;

/// Sets the filter for this thread and those that it makes, which lets through these calls; gives what the kernel answers: with a `flags` that asks for
/// one, the listener.
pub fn set(calls: Calls, unknown: Unknown, flags: libc::c_ulong) -> io::Result<libc::c_int> {
    if ARCHITECTURE == 0 {
        return Err(io::Error::other("no list of the system calls of this architecture"));
    }
    let mut program = program(calls, unknown);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // Whatever this process reads is its own, so what the kernel does about speculation for those who run the code of
    // others, and which older kernels do for all that have a filter, would only make it slower.
    let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the program is valid for the duration of the call, which copies it.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as libc::c_int) }
}

fn program(calls: Calls, unknown: Unknown) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt: usize, jf: usize, k: u32| {
        // A jump goes at most 255 steps, which is checked by a test of the list.
        libc::sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k }
    };
    let fails = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned() & libc::SECCOMP_RET_DATA;
    let otherwise = match unknown {
        Unknown::Fails => fails,
        Unknown::IsAsked => libc::SECCOMP_RET_USER_NOTIF,
    };
    let known = calls.iter().flat_map(|(_, calls)| calls.iter().map(|&call| call as u32)).chain([CALLED_OFF]);
    let count = known.clone().count();
    let mut program = vec![
        step(LOAD, 0, 0, ARCH),
        step(IF_EQUAL, 1, 0, ARCHITECTURE),
        step(ANSWER, 0, 0, otherwise), // a call of the 32-bit kind
        step(LOAD, 0, 0, NUMBER),
    ];
    program.extend(known.enumerate().map(|(at, call)| step(IF_EQUAL, count - at, 0, call)));
    program.push(step(ANSWER, 0, 0, otherwise));
    program.push(step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::super::calls::{CALLS, OF_HELPER};
    use super::*;

    /// What the program answers to a call.
    fn answer(program: &[libc::sock_filter], architecture: u32, call: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) & 0x07 {
                libc::BPF_LD => loaded = if step.k == ARCH { architecture } else { call },
                libc::BPF_JMP => at += usize::from(if loaded == step.k { step.jt } else { step.jf }),
                _ => return step.k,
            }
        }
    }

    #[test]
    fn every_call_of_the_list_is_let_through_and_no_other() {
        for calls in [CALLS, OF_HELPER] {
            lets_through(calls);
        }
    }

    fn lets_through(calls: Calls) {
        let known: Vec<u32> = calls.iter().flat_map(|(_, calls)| calls.iter().map(|&call| call as u32)).collect();
        assert!(known.len() < 255, "jumps are too long");
        let fails = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for (unknown, otherwise) in [(Unknown::Fails, fails), (Unknown::IsAsked, libc::SECCOMP_RET_USER_NOTIF)] {
            let program = program(calls, unknown);
            for call in (0..1000).chain([CALLED_OFF, 1 << 30]) {
                let let_through = known.contains(&call) || call == CALLED_OFF;
                let expected = if let_through { libc::SECCOMP_RET_ALLOW } else { otherwise };
                assert_eq!(answer(&program, ARCHITECTURE, call), expected, "call {call}");
                assert_eq!(answer(&program, ARCHITECTURE ^ 1, call), otherwise, "call {call} of another kind");
            }
        }
    }
}
