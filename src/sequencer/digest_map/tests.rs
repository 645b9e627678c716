use fastrand::Rng;

use super::*;

const OPERATIONS: u64 = if cfg!(miri) { 200 } else { 200_000 };

#[test]
fn it_is_one_ordered_map_however_digests_are_ground() {
    let mut rng = Rng::with_seed(3);
    for shared in [0, 2, 31] {
        let (mut real, mut model) = (DigestMap::<u64>::default(), BTreeMap::new());
        for value in 0..OPERATIONS {
            // The first bytes of all are the same.
            let mut digest = Digest::default();
            digest.0[31] = rng.u8(..);
            for byte in &mut digest.0[shared..(shared + 2).min(31)] {
                *byte = rng.u8(..8) << 5;
            }
            match rng.u32(..5) {
                0 => assert_eq!(real.insert(digest, value), model.insert(digest, value)),
                1 | 2 => assert_eq!(real.remove(&digest), model.remove(&digest)),
                3 => {
                    *real.get_or_default(digest) += 1;
                    *model.entry(digest).or_default() += 1;
                }
                _ => assert_eq!(real.get_mut(&digest), model.get_mut(&digest)),
            }
            assert_eq!(real.get(&digest), model.get(&digest));
            assert_eq!(real.len(), model.len());
        }
        assert!(model.len() > 10, "{}", model.len());
        assert!(real.iter().eq(model.iter()));
        assert!(real.values().eq(model.values()));
    }
}
