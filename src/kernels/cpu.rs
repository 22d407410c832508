//! One body, several instruction sets: the portable form of a kernel, compiled again for what the CPU has.
//!
//! Most kernels need no intrinsics: their loops become vector instructions once the compiler may use them.
//! Such a kernel is written once, and [`fast`] runs it in the best compilation; the portable one is the same
//! code, so the results are the same bits (nothing is contracted or reassociated).

/// Runs `f`, compiled for the widest instruction set that this CPU has of those that are worth it.
///
/// `f` must be a closure marked `#[inline(always)]` that calls nothing but inlined code, or it gains nothing.
#[inline(always)]
pub fn fast<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the CPU has the instructions, as was just asked.
        #[allow(unsafe_code)]
        return unsafe { avx2(f) };
    }
    f()
}

/// Whether a product and a sum are one instruction in what [`fast`] runs: rounded once, and slow where they
/// are not.
#[inline(always)]
pub fn has_fused() -> bool {
    #[cfg(target_arch = "x86_64")]
    return has_avx2();
    #[cfg(not(target_arch = "x86_64"))]
    cfg!(target_arch = "aarch64")
}

/// `w * x + sum`, rounded once where `FUSED`.
#[inline(always)]
pub fn multiply_add<T: num_traits::Float, const FUSED: bool>(w: T, x: T, sum: T) -> T {
    if FUSED { w.mul_add(x, sum) } else { w * x + sum }
}

/// An answer that is asked for once: some kernels ask for every few dozen numbers.
#[cfg(target_arch = "x86_64")]
struct Answer(std::sync::atomic::AtomicU8);

#[cfg(target_arch = "x86_64")]
impl Answer {
    const fn unknown() -> Self {
        Self(std::sync::atomic::AtomicU8::new(0))
    }

    #[inline(always)]
    fn get(&self, ask: fn() -> bool) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        match self.0.load(Relaxed) {
            0 => {
                let answer = ask();
                self.0.store(1 + u8::from(answer), Relaxed);
                answer
            }
            known => known == 2,
        }
    }
}

/// Whether instructions are wanted that the CPU has, of those of a later `level`. With the feature `bench`, `BANTAM_CPU`
/// says which is the last: so one machine tests and times what others run.
#[cfg(target_arch = "x86_64")]
fn is_wanted(level: &str) -> bool {
    const LEVELS: [&str; 4] = ["portable", "avx2", "avx512", "all"];
    let place = |level: &str| LEVELS.iter().position(|known| *known == level);
    if !cfg!(feature = "bench") {
        return true;
    }
    std::env::var("BANTAM_CPU").map_or(true, |last| {
        assert!(place(&last).is_some(), "BANTAM_CPU is `{last}`, and not one of {LEVELS:?}");
        place(level) <= place(&last)
    })
}

/// Whether AVX2 and what always comes with it are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn has_avx2() -> bool {
    static ANSWER: Answer = Answer::unknown();
    ANSWER.get(|| {
        use std::arch::is_x86_feature_detected as has;
        let all = has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2");
        all && has!("f16c") && has!("popcnt") && has!("lzcnt") && is_wanted("avx2")
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,f16c,popcnt,lzcnt")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,f16c,popcnt,lzcnt")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// That the CPU has AVX2 and what comes with it: only [`new`](Self::new) makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    pub fn new() -> Option<Self> {
        has_avx2().then_some(Self(()))
    }
}

/// That the CPU has AVX2 and the parts of AVX-512 that came with it first (F, BW, CD, DQ, VL): only
/// [`new`](Self::new) makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    #[inline(always)]
    pub fn new() -> Option<Self> {
        static ANSWER: Answer = Answer::unknown();
        let has = ANSWER.get(|| {
            use std::arch::is_x86_feature_detected as has;
            let all = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq");
            all && has!("avx512vl") && has_avx2() && is_wanted("avx512")
        });
        has.then_some(Self(()))
    }

    /// Runs `f`, compiled for it: as [`fast`] does, for kernels that gain more by it than another copy of their
    /// code costs.
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        #[allow(unsafe_code)]
        unsafe {
            avx512(f)
        }
    }
}

/// That the CPU has [`Avx512`] and its instructions for products of bytes: only [`new`](Self::new) makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Vnni(());

#[cfg(target_arch = "x86_64")]
impl Vnni {
    pub fn new() -> Option<Self> {
        static ANSWER: Answer = Answer::unknown();
        let has = ANSWER.get(|| {
            let has = std::arch::is_x86_feature_detected!("avx512vnni");
            has && Avx512::new().is_some() && is_wanted("all")
        });
        has.then_some(Self(()))
    }

    /// Which comes with it.
    pub fn avx2(self) -> Avx2 {
        Avx2(())
    }
}

/// That the CPU has [`Avx512`] and its instructions that pick bytes (VBMI) and move them by a mask (VBMI2): only
/// [`new`](Self::new) makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Vbmi2(());

#[cfg(target_arch = "x86_64")]
impl Vbmi2 {
    pub fn new() -> Option<Self> {
        static ANSWER: Answer = Answer::unknown();
        let has = ANSWER.get(|| {
            use std::arch::is_x86_feature_detected as has;
            let all = has!("avx512vbmi") && has!("avx512vbmi2");
            all && Avx512::new().is_some() && is_wanted("all")
        });
        has.then_some(Self(()))
    }
}
