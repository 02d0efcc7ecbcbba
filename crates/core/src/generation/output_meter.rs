//! Bounds the output of a generation while it is written.

use std::fmt;
use std::sync::Arc;

/// Reserves the output of one generation, in steps. Called on its worker; it must not block.
pub trait OutputMeter: Send + Sync + fmt::Debug {
    /// Returns the output tokens that are reserved at the start; `None` if output has no bound.
    fn reserved(&self) -> Option<u64> {
        None
    }

    /// Reserves more, since the answer has about this many tokens. Returns the tokens that are
    /// reserved in total; `None` if the answer has to end.
    fn extend(&self, output: u64) -> Option<u64> {
        Some(output.saturating_mul(2))
    }

    /// Another upstream continues the answer, which has about this many tokens. The first upstream
    /// has not reported its usage.
    fn continued_without_usage(&self, _output: u64) {}
}

/// The bytes after which the tokens are estimated again.
const MIN_STEP: usize = 256;

/// Asks an [`OutputMeter`] for more when a log may have outgrown what is reserved.
///
/// It compares bytes with each append. Tokens are estimated once for some hundred bytes, and the less
/// often the more is left.
#[derive(Debug)]
pub(super) struct OutputBound {
    meter: Arc<dyn OutputMeter>,
    reserved: u64,
    /// The bytes of the log at which the tokens are estimated next.
    pub(super) check_at: usize,
}

// === impl OutputBound ===

impl OutputBound {
    pub(super) fn new(meter: Arc<dyn OutputMeter>) -> Self {
        let reserved = meter.reserved();
        let bytes = reserved.map_or(u64::MAX, |tokens| tokens.saturating_mul(4));
        Self {
            check_at: usize::try_from(bytes).unwrap_or(usize::MAX).max(MIN_STEP),
            reserved: reserved.unwrap_or(u64::MAX),
            meter,
        }
    }

    pub(super) fn meter(&self) -> &dyn OutputMeter {
        &*self.meter
    }

    /// Reserves more if needed. Returns whether the answer may go on.
    pub(super) fn check(&mut self, appended: usize, output: u64) -> bool {
        while output >= self.reserved {
            match self.meter.extend(output) {
                // A meter that does not grow would be asked for ever.
                Some(reserved) => self.reserved = reserved.max(output.saturating_add(1)),
                None => {
                    self.check_at = usize::MAX;
                    return false;
                }
            }
        }
        let left = usize::try_from(self.reserved - output).unwrap_or(usize::MAX);
        let per_token = usize::try_from(output).unwrap_or(usize::MAX).max(1);
        let per_token = (appended / per_token).max(4);
        let step = left.saturating_mul(per_token).max(MIN_STEP);
        self.check_at = appended.saturating_add(step);
        true
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Reserves ten tokens at a time, up to `most`.
    #[derive(Debug)]
    struct Tens {
        most: u64,
        asked: Mutex<Vec<u64>>,
    }

    impl OutputMeter for Tens {
        fn reserved(&self) -> Option<u64> {
            Some(10)
        }

        fn extend(&self, output: u64) -> Option<u64> {
            self.asked.lock().push(output);
            (output < self.most).then_some(output + 10)
        }
    }

    #[test]
    fn meter_is_asked_in_steps_and_ends_the_answer() {
        let meter = Arc::new(Tens {
            most: 1000,
            asked: Mutex::default(),
        });
        let mut bound = OutputBound::new(meter.clone());
        let (mut appended, mut output, mut checks) = (0, 0, 0);
        let ended = loop {
            appended += 30;
            output += 1;
            if appended >= bound.check_at {
                checks += 1;
                if !bound.check(appended, output) {
                    break output;
                }
            }
            assert!(output < 1100, "the answer goes on");
        };
        assert!((1000..1020).contains(&ended), "{ended}");
        assert!(checks <= 110, "{checks}");
        assert!(meter.asked.lock().len() <= 101);
        assert_eq!(bound.check_at, usize::MAX);
    }

    #[test]
    fn output_without_a_bound_is_never_checked() {
        #[derive(Debug)]
        struct Unbounded;
        impl OutputMeter for Unbounded {}
        assert_eq!(OutputBound::new(Arc::new(Unbounded)).check_at, usize::MAX);
    }
}
