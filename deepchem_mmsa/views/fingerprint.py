"""Fingerprint and descriptors of a molecule: the features of classical QSAR models.

ECFP4 (Rogers and Hahn, J. Chem. Inf. Model. 2010, 50, 742) as counts of atom environments, and
RDKit's two-dimensional descriptors. A random forest on these is a baseline that most published
networks do not beat, so they are offered to the network as a fourth view.

Neither distinguishes stereoisomers (one descriptor counts unspecified centres), as in the
baselines that they are compared with: stereochemistry reaches the network through graph and
conformer, and chiral bits would be rarer in small data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from deepchem_mmsa.molecule import FINGERPRINT_SIZE, N_DESCRIPTORS
from deepchem_mmsa.rdkit_state import quiet_legacy

RADIUS = 2
MAX_ATOMS = 1000
"""Above it, descriptors of distance matrices take many seconds."""
_MAX_ATOMS_OF = {"AvgIpc": 150, "Ipc": 150}  # characteristic polynomials: n^4
_LARGEST = float(np.finfo(np.float32).max)

# RDKit's list, fixed here: a record's columns must not depend on the version that is installed.
DESCRIPTORS: tuple[str, ...] = tuple(
    """
MaxAbsEStateIndex MaxEStateIndex MinAbsEStateIndex MinEStateIndex qed SPS MolWt HeavyAtomMolWt
ExactMolWt NumValenceElectrons NumRadicalElectrons MaxPartialCharge MinPartialCharge
MaxAbsPartialCharge MinAbsPartialCharge FpDensityMorgan1 FpDensityMorgan2 FpDensityMorgan3
BCUT2D_MWHI BCUT2D_MWLOW BCUT2D_CHGHI BCUT2D_CHGLO BCUT2D_LOGPHI BCUT2D_LOGPLOW BCUT2D_MRHI
BCUT2D_MRLOW AvgIpc BalabanJ BertzCT Chi0 Chi0n Chi0v Chi1 Chi1n Chi1v Chi2n Chi2v Chi3n Chi3v
Chi4n Chi4v HallKierAlpha Ipc Kappa1 Kappa2 Kappa3 LabuteASA PEOE_VSA1 PEOE_VSA10 PEOE_VSA11
PEOE_VSA12 PEOE_VSA13 PEOE_VSA14 PEOE_VSA2 PEOE_VSA3 PEOE_VSA4 PEOE_VSA5 PEOE_VSA6 PEOE_VSA7
PEOE_VSA8 PEOE_VSA9 SMR_VSA1 SMR_VSA10 SMR_VSA2 SMR_VSA3 SMR_VSA4 SMR_VSA5 SMR_VSA6 SMR_VSA7
SMR_VSA8 SMR_VSA9 SlogP_VSA1 SlogP_VSA10 SlogP_VSA11 SlogP_VSA12 SlogP_VSA2 SlogP_VSA3
SlogP_VSA4 SlogP_VSA5 SlogP_VSA6 SlogP_VSA7 SlogP_VSA8 SlogP_VSA9 TPSA EState_VSA1 EState_VSA10
EState_VSA11 EState_VSA2 EState_VSA3 EState_VSA4 EState_VSA5 EState_VSA6 EState_VSA7 EState_VSA8
EState_VSA9 VSA_EState1 VSA_EState10 VSA_EState2 VSA_EState3 VSA_EState4 VSA_EState5 VSA_EState6
VSA_EState7 VSA_EState8 VSA_EState9 FractionCSP3 HeavyAtomCount NHOHCount NOCount
NumAliphaticCarbocycles NumAliphaticHeterocycles NumAliphaticRings NumAmideBonds
NumAromaticCarbocycles NumAromaticHeterocycles NumAromaticRings NumAtomStereoCenters
NumBridgeheadAtoms NumHAcceptors NumHDonors NumHeteroatoms NumHeterocycles NumRotatableBonds
NumSaturatedCarbocycles NumSaturatedHeterocycles NumSaturatedRings NumSpiroAtoms
NumUnspecifiedAtomStereoCenters Phi RingCount MolLogP MolMR fr_Al_COO fr_Al_OH fr_Al_OH_noTert
fr_ArN fr_Ar_COO fr_Ar_N fr_Ar_NH fr_Ar_OH fr_COO fr_COO2 fr_C_O fr_C_O_noCOO fr_C_S fr_HOCCN
fr_Imine fr_NH0 fr_NH1 fr_NH2 fr_N_O fr_Ndealkylation1 fr_Ndealkylation2 fr_Nhpyrrole fr_SH
fr_aldehyde fr_alkyl_carbamate fr_alkyl_halide fr_allylic_oxid fr_amide fr_amidine fr_aniline
fr_aryl_methyl fr_azide fr_azo fr_barbitur fr_benzene fr_benzodiazepine fr_bicyclic fr_diazo
fr_dihydropyridine fr_epoxide fr_ester fr_ether fr_furan fr_guanido fr_halogen fr_hdrzine
fr_hdrzone fr_imidazole fr_imide fr_isocyan fr_isothiocyan fr_ketone fr_ketone_Topliss fr_lactam
fr_lactone fr_methoxy fr_morpholine fr_nitrile fr_nitro fr_nitro_arom fr_nitro_arom_nonortho
fr_nitroso fr_oxazole fr_oxime fr_para_hydroxylation fr_phenol fr_phenol_noOrthoHbond
fr_phos_acid fr_phos_ester fr_piperdine fr_piperzine fr_priamide fr_prisulfonamd fr_pyridine
fr_quatN fr_sulfide fr_sulfonamd fr_sulfone fr_term_acetylene fr_tetrazole fr_thiazole
fr_thiocyan fr_thiophene fr_unbrch_alkane fr_urea
""".split()  # noqa: SIM905 - thirty lines of names read better than two hundred
)
"""Names of the columns of :func:`descriptors`, functions of ``rdkit.Chem.Descriptors``."""

_FUNCTIONS: dict[str, Callable[..., float]] = dict(Descriptors.descList)
# By default each of the four recomputes the indices of all atoms; force=False caches them.
_FUNCTIONS |= {
    name: partial(_FUNCTIONS[name], force=False)
    for name in ("MaxEStateIndex", "MinEStateIndex", "MaxAbsEStateIndex", "MinAbsEStateIndex")
    if name in _FUNCTIONS
}


class FingerprintError(ValueError):
    """The fingerprint cannot be computed; the message is the reason."""


class Fingerprint(NamedTuple):
    """The fingerprint view of a molecule.

    Attributes
    ----------
    bits : np.ndarray
        uint16 ``[n_bits]``, the set positions of the folded fingerprint, ascending.
    counts : np.ndarray
        uint8 ``[n_bits]``, number of atom environments at each, at most 255.
    descriptors : np.ndarray
        float32 ``[217]`` in the order of :data:`DESCRIPTORS`; NaN where one is not defined.
    """

    bits: np.ndarray
    counts: np.ndarray
    descriptors: np.ndarray


def fingerprint(molecule: Chem.Mol) -> Fingerprint:
    """Compute fingerprint and descriptors of a molecule.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A sanitized molecule in the order of :func:`deepchem_mmsa.views.topology.canonical`; it
        is not changed.

    Returns
    -------
    Fingerprint

    Raises
    ------
    FingerprintError
        For more than 1,000 atoms (of hydrogens only isotopes count).

    Examples
    --------
    >>> from deepchem_mmsa.views.topology import canonical
    >>> view = fingerprint(canonical("CCO"))
    >>> len(view.bits), view.descriptors[DESCRIPTORS.index("MolWt")].item()
    (6, 46.069)
    """
    n = molecule.GetNumAtoms()  # dummies and isotopes of hydrogen too, which cost as much
    if n > MAX_ATOMS:
        raise FingerprintError(
            f"{n} atoms, more than the {MAX_ATOMS} for which descriptors are computed"
        )
    bits, counts = ecfp_counts(molecule)
    return Fingerprint(bits, counts, descriptors(molecule))


def ecfp_counts(molecule: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Return ECFP4 folded to 2,048 positions.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A sanitized molecule.

    Returns
    -------
    bits, counts : np.ndarray
        As in :class:`Fingerprint`.

    Examples
    --------
    >>> ecfp_counts(Chem.MolFromSmiles("CCCC"))[1].tolist()
    [2, 2, 1, 2, 2]
    """
    # Made here, because a generator cannot be shared between threads; it costs microseconds.
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=FINGERPRINT_SIZE)
    found = generator.GetCountFingerprint(molecule).GetNonzeroElements()
    bits = np.array(sorted(found), dtype=np.uint16)
    counts = np.array([min(found[int(bit)], 255) for bit in bits], dtype=np.uint8)
    return bits, counts


def descriptors(molecule: Chem.Mol) -> np.ndarray:
    """Return RDKit's two-dimensional descriptors.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A sanitized molecule; it is not changed.

    Returns
    -------
    np.ndarray
        float32 ``[217]`` in the order of :data:`DESCRIPTORS`: NaN where RDKit defines no value
        (partial charges of metals), where it would take too long, or where the installed
        version lacks the function; values beyond float32 are clipped.

    Examples
    --------
    >>> values = dict(zip(DESCRIPTORS, descriptors(Chem.MolFromSmiles("[Na+].[Cl-]"))))
    >>> int(values["HeavyAtomCount"]), bool(np.isnan(values["BCUT2D_MWHI"]))
    (2, True)
    """
    copy = Chem.Mol(molecule)  # RDKit stores charges and indices on the atoms
    n = copy.GetNumAtoms()
    values = np.full(N_DESCRIPTORS, np.nan)
    with quiet_legacy():
        for column, name in enumerate(DESCRIPTORS):
            function = _FUNCTIONS.get(name)
            if function is None or n > _MAX_ATOMS_OF.get(name, n):
                continue
            try:
                values[column] = function(copy)
            except (ArithmeticError, RuntimeError, ValueError):  # not defined, as for H2
                continue
    values[np.isinf(values)] = np.nan
    # Adding 0 turns -0 into 0: equal molecules give equal bytes.
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32) + np.float32(0)
