//! A list whose copies share its elements.

use std::sync::Arc;

/// Elements per chunk.
const CHUNK: usize = 256;

type Chunk<T> = Arc<Vec<Arc<T>>>;

/// A list that grows at its end. A copy costs one reference, however long the list is. A change
/// while there is a copy copies one element, its chunk, and the list of chunks.
#[derive(Clone)]
pub(crate) struct SharedList<T>(Arc<Vec<Chunk<T>>>);

impl<T> Default for SharedList<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> SharedList<T> {
    pub(crate) fn push(&mut self, element: T) {
        let chunks = Arc::make_mut(&mut self.0);
        if chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            one_more(chunks);
            chunks.push(Arc::default());
        }
        if let Some(chunk) = chunks.last_mut().map(Arc::make_mut) {
            one_more(chunk);
            chunk.push(Arc::new(element));
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.0
            .get(index / CHUNK)?
            .get(index % CHUNK)
            .map(|element| &**element)
    }

    /// Returns an element to change. One that a copy shares is copied first.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let chunk = Arc::make_mut(&mut self.0).get_mut(index / CHUNK)?;
        Arc::make_mut(chunk)
            .get_mut(index % CHUNK)
            .map(Arc::make_mut)
    }

    pub(crate) fn len(&self) -> usize {
        match self.0.split_last() {
            Some((last, full)) => full.len() * CHUNK + last.len(),
            None => 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0
            .iter()
            .flat_map(|chunk| chunk.iter())
            .map(|element| &**element)
    }
}

/// Reserves room for one element in an empty list. Most answers are one item of one part and are
/// kept long after their end; `Vec::push` alone would reserve room for four.
pub(crate) fn one_more<T>(list: &mut Vec<T>) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_their_elements() {
        let mut list = SharedList::default();
        let mut copies = Vec::new();
        for number in 0..1000usize {
            assert_eq!((list.len(), list.is_empty()), (number, number == 0));
            list.push(number);
            if number % 100 == 0 {
                copies.push((number, list.clone()));
            }
        }
        for number in 0..1000 {
            *list.get_mut(number).unwrap() += 1;
        }
        assert!(list.get(1000).is_none() && list.get_mut(1000).is_none());
        assert!(list.iter().copied().eq(1..=1000));
        for (last, copy) in copies {
            assert!(copy.iter().copied().eq(0..=last));
            assert_eq!(copy.get(last), Some(&last));
        }
    }

    #[test]
    fn unshared_elements_are_changed_in_place() {
        let mut list = SharedList::default();
        list.push(vec![1; 100]);
        let before = list.get(0).unwrap().as_ptr();
        list.get_mut(0).unwrap()[0] = 2;
        assert_eq!(list.get(0).unwrap().as_ptr(), before);
    }
}
