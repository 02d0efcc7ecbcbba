//! Which cores the load side, the simulator and the process under test run on.

use std::str::FromStr;

use thiserror::Error;

/// The cores of each party; a party without cores is not pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) load: Option<Vec<usize>>,
    simulator: Option<Vec<usize>>,
    target: Option<Vec<usize>>,
    /// The cores of a party that is not named. Without these it would inherit those of the load
    /// side, which starts it.
    others: Option<Vec<usize>>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum CoresError {
    #[error(
        "`{0}` is not a party with cores; expected load=LIST, simulator=LIST or target=LIST, where LIST is like 0,2-5"
    )]
    Party(String),
    #[error("`{0}` is not a list of cores; expected something like 3, 4-9 or 0,2-5")]
    List(String),
    #[error("`{0}` is named twice; name all of its cores at once, such as {0}=0,2-5")]
    Twice(String),
}

// === impl Cores ===

impl Cores {
    /// Returns the default for `available` cores and at most `workers` workers: load and simulator
    /// on the first core and the process under test on the second. With several workers and enough
    /// cores, each worker gets a core from the end and the simulator those in between.
    pub(crate) fn spread(available: &[usize], workers: usize) -> Self {
        let (Some((&first, rest)), true) = (available.split_first(), available.len() > 1) else {
            return Self::default();
        };
        let workers = workers.clamp(1, rest.len());
        let (simulator, target) = match rest.split_at_checked(rest.len() - workers) {
            Some((between @ [_, ..], target)) if workers > 1 => (between.to_vec(), target),
            _ => (vec![first], rest.get(..workers).unwrap_or(rest)),
        };
        Self {
            load: Some(vec![first]),
            simulator: Some(simulator),
            target: Some(target.to_vec()),
            others: None,
        }
    }

    /// Lets parties that are not named run on all of these.
    pub(crate) fn with_others(self, available: Vec<usize>) -> Self {
        Self {
            others: Some(available),
            ..self
        }
    }

    pub(crate) fn simulator(&self) -> Option<&[usize]> {
        self.simulator.as_deref().or(self.others.as_deref())
    }

    /// Returns the cores of a process with this many workers: one for each, as far as there are.
    pub(crate) fn target(&self, workers: usize) -> Option<&[usize]> {
        let Some(cores) = self.target.as_deref() else {
            return self.others.as_deref();
        };
        Some(cores.get(..workers).unwrap_or(cores))
    }
}

/// `load=0 simulator=1-3 target=4-9`, separated by spaces or semicolons.
impl FromStr for Cores {
    type Err = CoresError;

    fn from_str(text: &str) -> Result<Self, CoresError> {
        let mut cores = Self::default();
        for part in text
            .split([' ', ';'])
            .filter(|part| !part.trim().is_empty())
        {
            let (party, list) = part
                .split_once('=')
                .ok_or_else(|| CoresError::Party(part.to_owned()))?;
            let place = match party {
                "load" => &mut cores.load,
                "simulator" => &mut cores.simulator,
                "target" => &mut cores.target,
                _ => return Err(CoresError::Party(part.to_owned())),
            };
            if place.replace(parse_list(list)?).is_some() {
                return Err(CoresError::Twice(party.to_owned()));
            }
        }
        Ok(cores)
    }
}

fn parse_list(text: &str) -> Result<Vec<usize>, CoresError> {
    let wrong = || CoresError::List(text.to_owned());
    let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first || last >= rustix::thread::CpuSet::MAX_CPU {
            return Err(wrong());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(load: &[usize], simulator: &[usize], target: &[usize]) -> Cores {
        let some = |cores: &[usize]| (!cores.is_empty()).then(|| cores.to_vec());
        Cores {
            load: some(load),
            simulator: some(simulator),
            target: some(target),
            others: None,
        }
    }

    #[test]
    fn default_leaves_a_core_to_each_worker() {
        assert_eq!(Cores::spread(&[0], 1), Cores::default());
        assert_eq!(Cores::spread(&[0, 1], 1), cores(&[0], &[0], &[1]));
        assert_eq!(Cores::spread(&[0, 1], 4), cores(&[0], &[0], &[1]));
        assert_eq!(Cores::spread(&[0, 1, 2, 3], 1), cores(&[0], &[0], &[1]));
        assert_eq!(
            Cores::spread(&[0, 1, 2, 3, 4, 5, 6, 7], 4),
            cores(&[0], &[1, 2, 3], &[4, 5, 6, 7])
        );
        assert_eq!(
            Cores::spread(&[0, 1, 2, 3], 3),
            cores(&[0], &[0], &[1, 2, 3])
        );
    }

    #[test]
    fn fewer_workers_take_the_first_cores() {
        let cores = cores(&[0], &[1], &[4, 5, 6]);
        assert_eq!(cores.target(2), Some([4, 5].as_slice()));
        assert_eq!(cores.target(9), Some([4, 5, 6].as_slice()));
        assert_eq!(Cores::default().target(1), None);
    }

    #[test]
    fn party_that_is_not_named_runs_on_all_cores() {
        let cores = "load=0"
            .parse::<Cores>()
            .unwrap()
            .with_others(vec![0, 1, 2]);
        assert_eq!(cores.simulator(), Some([0, 1, 2].as_slice()));
        assert_eq!(cores.target(1), Some([0, 1, 2].as_slice()));
    }

    #[test]
    fn lists_are_parsed() {
        assert_eq!(
            "load=0 simulator=1-3;target=4,6-7".parse(),
            Ok(cores(&[0], &[1, 2, 3], &[4, 6, 7]))
        );
        assert_eq!("target=2".parse(), Ok(cores(&[], &[], &[2])));
        for (text, error) in [
            ("client=1", CoresError::Party("client=1".to_owned())),
            ("load", CoresError::Party("load".to_owned())),
            ("load=", CoresError::List(String::new())),
            ("load=3-1", CoresError::List("3-1".to_owned())),
            ("load=99999", CoresError::List("99999".to_owned())),
            ("load=1 load=2", CoresError::Twice("load".to_owned())),
        ] {
            assert_eq!(text.parse::<Cores>(), Err(error), "{text}");
        }
    }
}
