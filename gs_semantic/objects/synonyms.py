"""Words that mean the same thing in a household or an office: one line per thing, the plainest word first."""

from __future__ import annotations

_LINES = """
armchair: easy chair, lounge chair
backpack: rucksack, knapsack, school bag
bag: sack, tote
ball: football, soccer ball, basketball
basket: hamper
bathtub: tub, bath
bed: bedstead, cot, bunk
bench: pew
bicycle: bike, cycle
blanket: throw, quilt, duvet, comforter, bedspread
blinds: window blind, roller blind, shutter
book: novel, paperback, hardcover
bookshelf: bookcase, book shelf, book rack
bottle: flask, water bottle
bowl: dish
box: carton, cardboard box, crate, package, parcel
bucket: pail
cabinet: cupboard, sideboard, buffet, credenza
candle: candlestick
can: tin
carpet: rug, mat, floor mat
ceiling lamp: chandelier, ceiling light, pendant lamp, pendant light
chair: seat, dining chair, office chair, desk chair, swivel chair
clock: wall clock, alarm clock
clothes: clothing, laundry, garment
coffee machine: coffee maker, espresso machine
coffee table: low table, cocktail table
computer: pc, desktop computer, workstation
cup: mug, teacup, coffee cup, tumbler, beaker
curtain: drape, drapes, drapery
cushion: pillow, throw pillow
desk: writing table, work table, workbench
dishwasher: dish washer
door: doorway, gate
drawer: chest of drawers, dresser, bureau, commode
dumbbell: weight, barbell, hand weight
fan: ventilator
faucet: tap, water tap
fireplace: hearth, chimney
floor: ground, flooring
flower: blossom, bouquet
fork: pitchfork
fridge: refrigerator, freezer, icebox, cooler
glass: wine glass, drinking glass
guitar: ukulele
hammer: mallet
headphones: headset, earphones, earbuds
iron: flat iron, clothes iron
kettle: teakettle, water boiler
key: keys, keyring
keyboard: keypad
kitchen counter: counter, worktop, countertop, kitchen table top
knife: blade, cutter
ladder: stepladder, steps
lamp: light, floor lamp, table lamp, desk lamp, standing lamp, night lamp
laptop: notebook, notebook computer, portable computer
microwave: microwave oven
mirror: looking glass
monitor: screen, display, computer screen
mouse: computer mouse
nightstand: night table, bedside table, bedside cabinet, night stand
oven: stove, cooker, range, cooktop
pan: frying pan, skillet, saucepan
paper: sheet, document
pen: pencil, ballpoint, biro, marker
phone: telephone, mobile phone, smartphone, cell phone, cellphone, handset
piano: grand piano
picture: painting, photo, photograph, poster, artwork, print, picture frame, portrait
plant: potted plant, houseplant, house plant, pot plant, flowerpot
plate: saucer
printer: copier
radiator: heater, heating
remote: remote control, clicker, tv remote
scissors: shears
shelf: rack, shelving, shelves
shoe: boot, sneaker, trainer, slipper, sandal
shower: shower cabin
sink: washbasin, basin, wash basin
sofa: couch, settee, loveseat, divan
spoon: ladle
stairs: staircase, stairway
stool: footstool, bar stool, ottoman, pouf
suitcase: luggage, trolley case
table: dining table, kitchen table, dinner table
teddy: teddy bear, stuffed animal, plush toy, soft toy
toaster: toaster oven
toilet: lavatory, loo, wc
towel: hand towel, bath towel
toy: plaything
trash can: bin, dustbin, garbage can, rubbish bin, waste bin, wastebasket, trash bin, waste basket, litter bin
tree: fir tree, christmas tree
tv: television, telly, tv set, television set, tv screen
tv stand: tv cabinet, tv unit, media console, television stand
umbrella: parasol
vacuum cleaner: vacuum, hoover
vase: urn
wall: partition
wardrobe: closet, armoire
washing machine: washer, laundry machine
whiteboard: blackboard, board, chalkboard
window: windowpane, pane
"""

GROUPS: tuple[tuple[str, ...], ...] = tuple(
    (head.strip(), *(word.strip() for word in rest.split(",")))
    for head, _, rest in (line.partition(":") for line in _LINES.strip().splitlines())
)
