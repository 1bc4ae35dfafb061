//! One thread of another process, stopped and stepped.

use std::{io, ptr};

/// A thread that this one traces.
#[derive(Debug)]
pub struct Traced(libc::pid_t);

/// Why it stands still.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// After one instruction.
    Step,
    /// A signal is about to reach it; it does not unless it is passed on.
    Signal(i32),
    /// It is gone.
    Gone,
}

/// Where it stands, and what a system call there would be.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The address of the next instruction.
    pub address: u64,
    /// The number of a system call, if the next instruction makes one.
    number: u64,
    /// Its second argument.
    second: u64,
}

impl Traced {
    /// Begins to trace a thread, which runs on. It dies with its tracer.
    pub fn seize(thread: libc::pid_t) -> io::Result<Self> {
        let traced = Self(thread);
        traced.request(libc::PTRACE_SEIZE, 0, libc::PTRACE_O_EXITKILL as usize)?;
        Ok(traced)
    }

    fn request(&self, what: Request, address: usize, data: usize) -> io::Result<i64> {
        let (address, data) = (ptr::without_provenance_mut::<()>(address), ptr::without_provenance_mut::<()>(data));
        // SAFETY: the kernel checks every argument; where `data` is a pointer, its caller says that it is valid.
        let answer = unsafe { libc::ptrace(what, self.0, address, data) };
        if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }

    /// Lets it run.
    pub fn go_on(&self) -> io::Result<()> {
        self.request(libc::PTRACE_CONT, 0, 0).map(drop)
    }

    /// Lets it execute one instruction.
    pub fn step(&self) -> io::Result<()> {
        self.request(libc::PTRACE_SINGLESTEP, 0, 0).map(drop)
    }

    /// Lets it go.
    pub fn detach(self) -> io::Result<()> {
        self.request(libc::PTRACE_DETACH, 0, 0).map(drop)
    }

    /// Waits until it stands still.
    pub fn wait(&self) -> io::Result<Stop> {
        let mut status = 0;
        // SAFETY: `status` is a place for the answer.
        let answer = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        if answer == -1 {
            return Err(io::Error::last_os_error());
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(Stop::Gone);
        }
        Ok(match libc::WSTOPSIG(status) {
            libc::SIGTRAP => Stop::Step,
            signal => Stop::Signal(signal),
        })
    }

    /// Where it stands.
    pub fn place(&self) -> io::Result<Place> {
        let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        let mut range =
            libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<libc::user_regs_struct>() };
        // The range is that of `registers`, which is as large as it says, and both outlive the call.
        self.request(libc::PTRACE_GETREGSET, GENERAL_REGISTERS, (&raw mut range).expose_provenance())?;
        // SAFETY: all of its fields are integers, which were zero, or are what the kernel wrote.
        let registers = unsafe { registers.assume_init() };
        Ok(place_of(&registers))
    }

    /// What the instruction at an address does that is of interest.
    pub fn kind(&self, address: u64) -> Kind {
        // A word of -1 is no error, and neither of the two.
        match self.request(libc::PTRACE_PEEKTEXT, usize::try_from(address).unwrap_or_default(), 0) {
            Ok(word) if is_call(word) => Kind::Call,
            Ok(word) if is_exchange(word) => Kind::Exchange,
            _ => Kind::Other,
        }
    }
}

/// What an instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A system call.
    Call,
    /// A compare-and-swap: what is tried again if somebody else came between.
    Exchange,
    /// Anything else.
    Other,
}

/// The set of registers that is asked for: `NT_PRSTATUS`.
const GENERAL_REGISTERS: usize = 1;

/// How requests are numbered.
#[cfg(target_env = "gnu")]
type Request = libc::c_uint;
#[cfg(not(target_env = "gnu"))]
type Request = libc::c_int;

#[cfg(target_arch = "x86_64")]
fn place_of(registers: &libc::user_regs_struct) -> Place {
    Place { address: registers.rip, number: registers.rax, second: registers.rsi }
}

#[cfg(target_arch = "aarch64")]
fn place_of(registers: &libc::user_regs_struct) -> Place {
    Place { address: registers.pc, number: registers.regs[8], second: registers.regs[1] }
}

/// True if the instruction that begins in `word` makes a system call: `syscall`.
#[cfg(target_arch = "x86_64")]
fn is_call(word: i64) -> bool {
    word & 0xffff == 0x050f
}

/// True if the instruction that begins in `word` makes a system call: `svc #0`.
#[cfg(target_arch = "aarch64")]
fn is_call(word: i64) -> bool {
    word & 0xffff_ffff == 0xd400_0001
}

/// True if the instruction that begins in `word` compares and swaps: `lock cmpxchg`, with a prefix for its width or none.
#[cfg(target_arch = "x86_64")]
fn is_exchange(word: i64) -> bool {
    let bytes = word.to_ne_bytes();
    bytes[0] == 0xf0 && (bytes[1..3] == [0x0f, 0xb1] || (bytes[1] & 0xf0 == 0x40 && bytes[2..4] == [0x0f, 0xb1]))
}

/// True if the instruction that begins in `word` compares and swaps: `cas`.
#[cfg(target_arch = "aarch64")]
fn is_exchange(word: i64) -> bool {
    word & 0x3fa0_7c00 == 0x08a0_7c00
}

/// A call's name, as far as such calls are expected anywhere; a futex's with what it does.
pub fn call_name(place: Place) -> String {
    let known: [(libc::c_long, &str); 10] = [
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_mprotect, "mprotect"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_mremap, "mremap"),
        (libc::SYS_brk, "brk"),
        (libc::SYS_clock_gettime, "clock_gettime"),
        (libc::SYS_sched_yield, "sched_yield"),
        (libc::SYS_write, "write"),
        (libc::SYS_fdatasync, "fdatasync"),
    ];
    let is = |number: libc::c_long| u64::try_from(number) == Ok(place.number);
    if is(libc::SYS_futex) {
        const WAIT: u64 = libc::FUTEX_WAIT as u64;
        const WAIT_BITSET: u64 = libc::FUTEX_WAIT_BITSET as u64;
        const WAKE: u64 = libc::FUTEX_WAKE as u64;
        return match place.second & 0x7f {
            WAIT | WAIT_BITSET => "futex wait".to_owned(),
            WAKE => "futex wake".to_owned(),
            other => format!("futex {other}"),
        };
    }
    known
        .iter()
        .find(|(number, _)| is(*number))
        .map_or_else(|| format!("call {}", place.number), |(_, name)| (*name).to_owned())
}
