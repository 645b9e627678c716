//! A list that grows by a page at a time: nothing is copied when it does, and no more than a page is
//! in reserve. Ten million entries come and go with the seconds that they belong to; lists that
//! double would hold a third more than they need, in pieces that no other second has a use for.

use std::ops::{Index, IndexMut};

/// Entries of a page.
const PAGE: usize = 1024;

/// See the module docs.
#[derive(Clone, Debug)]
pub struct Pages<T>(Vec<Vec<T>>);

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Pages<T> {
    pub fn len(&self) -> usize {
        // Only the last page is not full.
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PAGE + last.len())
    }

    pub fn push(&mut self, value: T) {
        if let Some(last) = self.0.last_mut().filter(|last| last.len() < PAGE) {
            last.push(value);
        } else {
            let mut page = Vec::with_capacity(PAGE);
            page.push(value);
            self.0.push(page);
        }
    }

    pub fn get(&self, position: usize) -> Option<&T> {
        self.0.get(position / PAGE)?.get(position % PAGE)
    }

    pub fn get_mut(&mut self, position: usize) -> Option<&mut T> {
        self.0.get_mut(position / PAGE)?.get_mut(position % PAGE)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// Keeps so many.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.len() {
            return;
        }
        self.0.truncate(length.div_ceil(PAGE));
        if let Some(last) = self.0.last_mut() {
            last.truncate(length - (length - 1) / PAGE * PAGE);
        }
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, position: usize) -> &T {
        &self.0[position / PAGE][position % PAGE]
    }
}

impl<T> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, position: usize) -> &mut T {
        &mut self.0[position / PAGE][position % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        let (mut pages, mut list) = (Pages::default(), Vec::new());
        let check = |pages: &Pages<usize>, list: &Vec<usize>| {
            assert_eq!(pages.len(), list.len());
            assert!(pages.iter().eq(list));
            for position in [0, 1, PAGE - 1, PAGE, 2 * PAGE, list.len(), list.len() + PAGE] {
                assert_eq!(pages.get(position), list.get(position));
            }
        };
        for value in 0..3 * PAGE + 5 {
            pages.push(value);
            list.push(value);
            if value % PAGE < 2 || value % PAGE == PAGE - 1 {
                check(&pages, &list);
            }
        }
        (pages[PAGE + 1], list[PAGE + 1]) = (7, 7);
        *pages.get_mut(2).unwrap() = 8;
        list[2] = 8;
        let lengths =
            [usize::MAX, 5 * PAGE + 1, 3 * PAGE + 1, 3 * PAGE, 2 * PAGE + 1, PAGE - 1, 3, 0, 5];
        for length in lengths {
            pages.truncate(length);
            list.truncate(length);
            check(&pages, &list);
        }
    }

    #[test]
    fn no_more_than_a_page_is_in_reserve() {
        let mut pages = Pages::default();
        (0..=10 * PAGE).for_each(|value| pages.push(value));
        let reserved: usize = pages.0.iter().map(Vec::capacity).sum();
        assert_eq!(reserved, 11 * PAGE);
    }
}
