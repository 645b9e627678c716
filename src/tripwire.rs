//! Where tests make the code panic. Outside of tests it is an empty value that compiles to nothing:
//! no setting, feature or input arms it.

pub(crate) use armed::Tripwire;

#[cfg(not(test))]
mod armed {
    /// Does nothing.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Tripwire(());

    impl Tripwire {
        /// Does nothing.
        #[expect(clippy::unused_self, reason = "as the one of tests")]
        pub const fn at(&self, _: &'static str, _: &'static str) {}
    }
}

#[cfg(test)]
mod armed {
    use std::sync::{Arc, Mutex, PoisonError};

    /// Panics as often as it was told to, and where.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Tripwire(Arc<Mutex<Option<Armed>>>);

    #[derive(Debug)]
    struct Armed {
        part: &'static str,
        what: &'static str,
        times: u32,
    }

    #[cfg_attr(not(feature = "engine"), allow(dead_code, reason = "armed by the engine's tests"))]
    impl Tripwire {
        /// Armed for a part and what it is about to handle.
        pub fn armed(part: &'static str, what: &'static str, times: u32) -> Self {
            Self(Arc::new(Mutex::new(Some(Armed { part, what, times }))))
        }

        /// True until it has fired so often.
        pub fn is_armed(&self) -> bool {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
        }

        /// Panics if it is armed for this place.
        pub fn at(&self, part: &'static str, what: &'static str) {
            let fires = {
                let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let here = armed.as_mut().filter(|armed| armed.part == part && armed.what == what);
                let left = here.map(|here| {
                    here.times -= 1;
                    here.times
                });
                if left == Some(0) {
                    *armed = None;
                }
                left.is_some()
            };
            assert!(!fires, "tripwire in {part} at {what}");
        }
    }
}
