// What the page starts with: a made-up harbour's handbook.

export const QUESTION = 'How often are the lamps of the North Mole light checked, and who signs for it?';

export const SYSTEM = 'Answer the question from the passages. Be brief.';

export const PASSAGES = [
  'The North Mole light stands on the seaward end of the breakwater at Port Ellery. It shows two white ' +
  'flashes every ten seconds and can be seen for fourteen nautical miles in clear weather. The tower was ' +
  'built of granite in 1887 and fitted with electric lamps in 1931. Its lamps are checked every nine days ' +
  'by the harbour electrician, who signs the light book in the watch room. A spare lamp is kept in the ' +
  'lower gallery, and the standby generator must start within thirty seconds of a power failure.',
  'The ferry Marguerite crosses between Port Ellery and the island of Sorrel six times a day in summer and ' +
  'three times in winter. She carries two hundred passengers and eighteen cars. Her hull is inspected in ' +
  'dry dock each February, and her life rafts are replaced every four years. Crossings are cancelled when ' +
  'the wind is above force eight, or when the swell at the bar is higher than three metres. Tickets of a ' +
  'cancelled crossing are good for the next seven days.',
  'Pilots meet incoming vessels two miles south of the fairway buoy. A vessel longer than ninety metres must ' +
  'take a pilot, and one longer than one hundred and forty metres must also take two tugs. Requests are made ' +
  'on channel twelve at least four hours before arrival. The pilot boat Petrel lies at the inner quay, is ' +
  'manned at all hours, and is refuelled at the end of every watch. The duty pilot keeps a log of draughts, ' +
  'times and weather for each movement.',
  'Oil that is spilled in the harbour is to be reported to the watch room at once. The first boat to arrive ' +
  'lays the boom that is kept in the red shed on the east quay, beginning on the side that the tide sets ' +
  'towards. Absorbent mats are stored beside it, enough for about six hundred litres. Nobody may use ' +
  'detergent without the leave of the harbour master. Afterwards the crew writes down what was used, so ' +
  'that the shed can be stocked again before the next day.',
];
